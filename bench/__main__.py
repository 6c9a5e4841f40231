"""``make bench``: run every benchmark of this folder, one after the other; each writes bench/results/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Run them; 1 if one failed."""
    failed = 0
    for script in sorted(HERE.glob("[a-z]*.py")):
        print(f"== {script.name}", flush=True)
        failed += subprocess.run([sys.executable, "-m", f"bench.{script.stem}"], check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
