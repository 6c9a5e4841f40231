"""``python -m bench [NAME …]``: run the benchmarks of this folder, or those named, one after the other.

Each writes bench/results/.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Run them; 1 if one failed."""
    failed = 0
    for script in sorted(HERE.glob("[a-z]*.py")):
        if sys.argv[1:] and script.stem not in sys.argv[1:]:
            continue
        print(f"== {script.name}", flush=True)
        failed += subprocess.run([sys.executable, "-m", f"bench.{script.stem}"], check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
