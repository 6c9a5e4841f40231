"""Axolotl's own training command on one config file. Runs in its environment: ``… CONFIG``."""

from __future__ import annotations

import sys


def main(config: str) -> None:
    """As ``axolotl train CONFIG`` without a launcher of its own."""
    from axolotl.cli.train import do_cli  # pyright: ignore[reportMissingImports]

    do_cli(config)


if __name__ == "__main__":
    main(sys.argv[1])
