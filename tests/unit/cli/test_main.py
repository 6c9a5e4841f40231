"""The commands, their help, the documented exit codes, and errors as a person reads them."""

import json
import re
from pathlib import Path

import pytest

from graftwork.cli import main as entry
from graftwork.core import errors

DOCS = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        entry.main(list(arguments))
    return caught.value.code


def test_help_lists_every_command_and_docs_say_the_same(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    documented = dict(re.findall(r"^\| `graft ([a-z]+)` \| (.+) \|$", DOCS, flags=re.MULTILINE))
    assert documented == {name: text for name, _, text in entry._COMMANDS}
    for name in documented:
        assert name in shown


@pytest.mark.parametrize("name", [name for name, _, _ in entry._COMMANDS])
def test_every_command_has_help(name: str, capsys):
    assert run(name, "--help") == 0
    assert "Usage: graft" in capsys.readouterr().out


def test_every_exit_code_is_documented():
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", DOCS, flags=re.MULTILINE)}
    assert {0, 130} | set(errors.EXIT.values()) == documented


def test_a_missing_server_is_explained(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("GRAFTWORK_URL", raising=False)
    monkeypatch.setenv("GRAFTWORK_DATA", str(tmp_path))
    assert run("job", "ls") == 3
    told = capsys.readouterr()
    assert "graft up" in told.err
    assert "no_server" in told.err
    assert told.out == ""


def test_a_server_that_is_away_is_explained(monkeypatch, tmp_path, capsys):
    (tmp_path / "client.json").write_text(json.dumps({"url": "http://127.0.0.1:9", "api_key": "gw_x"}))
    monkeypatch.delenv("GRAFTWORK_URL", raising=False)
    monkeypatch.setenv("GRAFTWORK_DATA", str(tmp_path))
    assert run("job", "ls") == 6
    assert "server_unreachable" in capsys.readouterr().err
