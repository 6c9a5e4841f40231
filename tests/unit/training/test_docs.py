"""docs/training.md says what the code and the committed figure say."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/training.md").read_text()
NUMBERS = json.loads((ROOT / "docs/figures/trl_agreement.json").read_text())
SILENT = {
    "attempt_has_another_writer",  # the second process stops without a result
    "invalid_attempt",  # said on standard error: there is no folder to write into
    "explained",  # messages
    "stopped_early",
}


def test_every_code_that_a_result_may_carry_is_explained():
    sources = [*(ROOT / "src/graftwork/training").glob("*.py"), ROOT / "src/graftwork/runs/reader.py"]
    codes = {code for path in sources for code in re.findall(r'code="([a-z_]+)"', path.read_text())}
    assert len(codes) > 10
    assert {code for code in codes - SILENT if f"`{code}`" not in PAGE} == set()


def test_the_table_is_the_committed_comparison():
    """Write the table with: python scripts/figures/trl_agreement.py"""
    table = re.search(r"<!-- trl: begin -->\n(.*)<!-- trl: end -->", PAGE, re.DOTALL)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in table[1].splitlines()[2:]]
    by_step = {step["step"]: step for step in NUMBERS["steps"]}
    assert len([row for row in rows if row[0].isdigit()]) >= 5
    for number, loss, trl_loss, norm, trl_norm in (row for row in rows if row[0].isdigit()):
        step = by_step[int(number)]
        assert [loss, trl_loss] == [f"{step[side]['loss']:.6f}" for side in ("native", "trl")]
        assert [norm, trl_norm] == [f"{step[side]['grad_norm']:.5f}" for side in ("native", "trl")]
    largest = NUMBERS["largest_deviation"]
    assert f"{largest['loss']:.1e}" in table[1] and f"{largest['grad_norm']:.1e}" in table[1]
    assert largest["loss"] < 1e-5 and largest["grad_norm"] < 1e-4
