"""How long `graft --help` takes, as a whole process, beside an empty Python: ``python -m bench.start``."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench import save

RUNS = 11
TARGET = Path(__file__).parent / "results" / "start.json"


def once(*arguments: str) -> float:
    """Seconds of wall time of one process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Alternate the two, write medians."""
    times: dict[str, list[float]] = {"graft --help": [], "python -c pass": []}
    for _ in range(RUNS):
        times["graft --help"].append(once("-m", "graftwork", "--help"))
        times["python -c pass"].append(once("-c", "pass"))
    result = {
        "milliseconds": {
            name: {
                "median": round(1000 * statistics.median(found)),
                "least": round(1000 * min(found)),
                "most": round(1000 * max(found)),
            }
            for name, found in times.items()
        },
        "runs": RUNS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_before": os.getloadavg()[0],
    }
    save(TARGET, result)


if __name__ == "__main__":
    main()
