"""docs/export.md says what there is; its commands are parsed by the commands themselves."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from graftwork.cli import adapter, main
from graftwork.control.reconcilers.all import MIRROR
from graftwork.control.services.exports import FORMATS, QUANTS
from graftwork.export.architecture import ARCHITECTURES
from graftwork.export.request import Format, Quant

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/export.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("words", COMMANDS, ids=[" ".join(words[:6]) for words in COMMANDS])
def test_every_command_is_one(words: list[str]):
    assert words[0] == "graft"
    if words[1] == "adapter":
        command, bound, _ = adapter.app.parse_args(words[2:], exit_on_error=False, print_error=False)
        assert command.__name__ == words[2]
        assert bound.args[0].startswith("support")
    else:
        from cyclopts import App

        from graftwork.cli.up import up

        app = App()
        app.default(up)
        _, bound, _ = app.parse_args(words[2:], exit_on_error=False, print_error=False)
        assert words[2].removeprefix("--") in bound.arguments
    assert words[1] in {name for name, _, _ in main._COMMANDS}


def test_the_page_names_every_format_quant_architecture_and_tracker():
    assert get_args(Format) == FORMATS
    assert get_args(Quant) == QUANTS
    for name in (*FORMATS, *QUANTS, *ARCHITECTURES, *MIRROR):
        assert f"`{name}`" in PAGE


def test_every_code_that_an_export_fails_with_is_explained():
    sources = (ROOT / "src/graftwork/export").glob("*.py")
    codes = {code for path in sources for code in re.findall(r'code="([a-z_]+)"', path.read_text())}
    silent = {"weight_overflow", "invalid_export"}
    assert len(codes) > 5
    assert {code for code in codes - silent if f"`{code}`" not in PAGE} == set()
