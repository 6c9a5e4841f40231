"""docs/models.md's table of base models is the catalogue."""

from pathlib import Path

from graftwork.models.known import KNOWN

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
BEGIN, END = "<!-- catalogue: begin -->", "<!-- catalogue: end -->"


def table() -> str:
    lines = ["| base model | weights | active | context | licence |", "|---|---|---|---|---|"]
    for entry in KNOWN:
        active = entry.shape.active_parameters / 1e9
        lines.append(
            f"| `{entry.name}` | {entry.parameters / 1e9:.2f} B | {active:.2f} B | {entry.context} "
            f"| {entry.licence} |"
        )
    return "\n".join(lines)


def test_the_table_of_base_models_is_the_catalogue():
    assert PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip() == table()
