"""The map in docs/architecture.md is the tree: every package is on it, in its own words."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "graftwork"


def test_the_map_names_every_package_with_its_own_words():
    text = (ROOT / "docs" / "architecture.md").read_text()
    on_map = dict(re.findall(r"^\| `([a-z]+)/` \| (.+) \|$", text, flags=re.MULTILINE))
    in_tree = {
        init.parent.name: (ast.get_docstring(ast.parse(init.read_text())) or "").splitlines()[0]
        for init in PACKAGE.glob("*/__init__.py")
    }
    assert on_map == in_tree
