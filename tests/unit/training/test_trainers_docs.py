"""docs/trainers.md says of each trainer what the code does."""

from pathlib import Path

from graftwork.core.specs import RunSpec
from graftwork.models.trainers import ABILITIES, COMMANDS, variable_of

DOCS = Path(__file__).parents[3] / "docs" / "trainers.md"
BEGIN, END = "<!-- trainers: begin -->\n", "<!-- trainers: end -->"
COLUMNS = {
    "QLoRA": "nf4",
    "DoRA": "dora",
    "rsLoRA": "rslora",
    "LoRA+": "lora_plus",
    "NEFTune": "neftune",
    "stops early": "early_stopping",
    "from an adapter": "start",
    "expert rank": "expert_rank",
    "resumes": "resumes",
    "needs an accelerator": "gpu",
}


def table():
    """The table as it must be."""
    rows = [["trainer", "methods", *COLUMNS], ["---"] * (2 + len(COLUMNS))]
    for name, ability in ABILITIES.items():
        marks = ["yes" if getattr(ability, field) else "" for field in COLUMNS.values()]
        rows.append([f"`{name}`", ", ".join(ability.methods), *marks])
    return "".join(f"| {' | '.join(row)} |\n".replace("  ", " ") for row in rows)


def test_the_table_is_what_planning_refuses_by():
    text = DOCS.read_text()
    said = text.partition(BEGIN)[2].partition(END)[0]
    assert said == table(), f"put this between the markers:\n{table()}"


def test_every_trainer_of_a_run_is_known_and_every_tool_has_a_row():
    annotation = RunSpec.model_fields["trainer"].annotation
    assert set(ABILITIES) == set(annotation.__args__)  # pyright: ignore[reportOptionalMemberAccess]
    text = DOCS.read_text()
    assert all(f"| `{name}` |" in text.partition("## Other people's tools")[2] for name in COMMANDS)
    assert variable_of("llamafactory") in text
