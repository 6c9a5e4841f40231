"""The entry of ``graft``: commands by name, imported only when called; errors become exits here.

Exit codes (documented in docs/cli.md, tested): 0 ok, 1 the job or the server failed, 2 bad usage or bad data,
3 not allowed, 4 not found, 5 conflict, 6 not ready or out of capacity, 7 over budget, 130 interrupted.
"""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError

from graftwork import __version__
from graftwork.core.errors import GraftworkError, exit_code

app = App(
    name="graft",
    version=__version__,
    help_format="plaintext",
    help="""Fine-tune open-weight models on your own machines, behind the OpenAI API.

Try it:   graft demo
Serve:    graft up
Train:    graft train data.jsonl --base seedling --suffix support
Talk:     graft chat support "My router is down."
""",
)

_COMMANDS = [
    ("up", "graftwork.cli.up:up", "Start everything on this machine: API, gateway, trainer, engine."),
    ("demo", "graftwork.cli.demo:demo", "The whole life of an adapter on a small example, in minutes."),
    ("train", "graftwork.cli.train:train", "Upload a data set, train an adapter on it, and follow the job."),
    ("sweep", "graftwork.cli.sweep:sweep", "Try learning rates, ranks and epochs together; keep the best."),
    ("chat", "graftwork.cli.chat:chat", "Ask a base model, an adapter or a version."),
    ("dataset", "graftwork.cli.dataset:app", "Check, make and alter data sets before training."),
    ("job", "graftwork.cli.job:app", "List, follow, cancel, pause and resume jobs."),
    ("model", "graftwork.cli.model:app", "List base models, and show what is known of one."),
    (
        "adapter",
        "graftwork.cli.adapter:app",
        "List adapters and versions, promote and roll back, export and push.",
    ),
    ("key", "graftwork.cli.key:app", "Create, list and revoke API keys."),
    ("bill", "graftwork.cli.bill:bill", "What was used, and what it costs."),
    ("doctor", "graftwork.cli.doctor:doctor", "Check this machine and the server."),
    ("trainer", "graftwork.cli.trainer:trainer", "Run the trainer on run folders (what a machine executes)."),
]
for _name, _target, _help in _COMMANDS:
    app.command(_target, name=_name, help=_help)


def main(arguments: list[str] | None = None) -> None:
    """Run ``graft``; exits the process with a documented code."""
    try:
        code = app(arguments, exit_on_error=False, print_error=True)
    except GraftworkError as error:
        _explain(error)
        sys.exit(exit_code(error))
    except CycloptsError:
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: GraftworkError) -> None:
    """One line what, one line what to do, and the code: on stderr."""
    lines = [f"Error: {error.message}"]
    if error.fix:
        lines.append(f"  Fix: {error.fix}")
    lines.append(f"  Code: {error.code}" + (f"  (parameter {error.param})" if error.param else ""))
    print("\n".join(lines), file=sys.stderr)  # noqa: T201
