"""docs/evaluation.md says what the default gate does."""

from pathlib import Path

from graftwork.evals.gate import DEFAULT_GATE, decide
from graftwork.evals.results import Scores

TEXT = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
NOTHING = Scores(model="m", rows=())


def test_the_page_has_every_rule_and_the_gates_name_and_version():
    assert f"`{DEFAULT_GATE.name}`, version {DEFAULT_GATE.version}." in TEXT
    for rule in decide(NOTHING, NOTHING).rules:
        assert f"| `{rule['rule']}` |" in TEXT


def test_the_page_has_every_measure():
    for measure in NOTHING.measures():
        assert f"| `{measure}` |" in TEXT
