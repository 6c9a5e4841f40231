"""Write the table of findings into docs/datasets.md, between its two marks."""

from __future__ import annotations

from pathlib import Path

from graftwork.data.findings import FINDINGS

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
BEGIN, END = "<!-- findings: begin -->", "<!-- findings: end -->"


def table() -> str:
    """The table in Markdown."""
    lines = ["| code | severity | what is wrong | what to do |", "|---|---|---|---|"]
    for code, known in FINDINGS.items():
        fix = known.fix.replace("|", "\\|")
        lines.append(f"| `{code}` | {known.severity} | {known.meaning} | {fix} |")
    return "\n".join(lines)


def main() -> None:
    """Rewrite the page."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
