"""``python -m graftwork`` is ``graft``."""

from graftwork.cli.main import main

main()
