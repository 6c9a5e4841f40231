"""Run `graft demo` and draw what it printed as docs/figures/demo.svg; nothing in it is typed by hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

TARGET = Path(__file__).parents[2] / "docs" / "figures" / "demo.svg"
WIDTH = 118


def shorten(lines: list[str], keep: int = 6) -> list[str]:
    """Lines as printed; of a long run of progress messages only the first and last few."""
    shown: list[str] = []
    run: list[str] = []
    for line in [*lines, ""]:
        if re.match(r"\d\d:\d\d:\d\d  ", line):
            run.append(line)
            continue
        if len(run) > 2 * keep:
            run = [*run[:keep], f"          … {len(run) - 2 * keep} more messages …", *run[-keep:]]
        shown += [*run, line]
        run = []
    return shown[:-1]


def main() -> int:
    """Run the demo, draw it; the demo's exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "graftwork", "demo", "--questions", "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": str(WIDTH), "NO_COLOR": "1"},
    )
    with Path("/dev/null").open("w") as sink:
        console = Console(record=True, width=WIDTH, file=sink)
        for line in ["$ make demo", *shorten(done.stdout.splitlines())]:
            style = "bold" if line.startswith(("──", "$")) else ""
            console.print(Text(line[:400], style=style), soft_wrap=False)
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        console.save_svg(str(TARGET), title="make demo")
    print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
