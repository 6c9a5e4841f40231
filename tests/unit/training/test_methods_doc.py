"""docs/methods.md says what the code and the committed figure say."""

import json
import re
from pathlib import Path
from typing import get_args

from graftwork.core.specs import Method
from graftwork.data.shapes import TAKES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/methods.md").read_text()
NUMBERS = json.loads((ROOT / "docs/figures/dpo_agreement.json").read_text())


def test_every_method_has_its_line():
    listed = re.findall(r"^\| `(\w+)`,", PAGE, re.MULTILINE)
    assert set(listed) == set(get_args(Method)) == set(TAKES)


def test_the_table_is_the_committed_comparison():
    """Write the table with: python scripts/figures/dpo_agreement.py"""
    table = re.search(r"<!-- dpo: begin -->\n(.*)<!-- dpo: end -->", PAGE, re.DOTALL)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in table[1].splitlines()[2:]]
    by_step = {step["step"]: step for step in NUMBERS["steps"]}
    numbered = [row for row in rows if row[0].isdigit()]
    assert len(numbered) >= 5
    for number, loss, trl_loss, norm, trl_norm in numbered:
        step = by_step[int(number)]
        assert [loss, trl_loss] == [f"{step[side]['loss']:.6f}" for side in ("native", "trl")]
        assert [norm, trl_norm] == [f"{step[side]['grad_norm']:.5f}" for side in ("native", "trl")]
    largest = NUMBERS["largest_deviation"]
    assert f"{largest['loss']:.1e}" in table[1] and f"{largest['grad_norm']:.1e}" in table[1]
    assert largest["loss"] < 1e-4 and largest["grad_norm"] < 1e-3
