"""``python -m graftwork.export``: one export in a process of its own, asked and answered in JSON.

Conversions keep a core busy for minutes, and the server must not notice. What is secret comes by standard
input.
"""

from __future__ import annotations

import os
import sys

from pydantic import ValidationError

from graftwork.core.errors import GraftworkError, UserError
from graftwork.export.formats import export
from graftwork.export.request import Answer, Request

_EXTRAS = {"gguf": "gguf", "huggingface_hub": "hub"}
"""Packages that only some exports need, and the extras that bring them."""


def main() -> int:
    """Do what standard input asks."""
    os.nice(10)
    try:
        request = Request.model_validate_json(sys.stdin.buffer.read())
    except ValidationError as error:
        # Without the values: a token may be among them.
        answer = Answer(code="invalid_export", message=str(error.errors(include_input=False)))
    else:
        answer = run(request)
    sys.stdout.write(answer.model_dump_json() + "\n")
    return 0 if answer.code is None else 1


def run(request: Request) -> Answer:
    """One export, and its push if there is one; errors of ours become the answer."""
    try:
        files = export(request)
        url = None
        if request.push is not None:
            from graftwork.export.hub import push

            url = push(request.into, request.push)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        return Answer(
            code="extra_missing",
            message=f"The server lacks the package {error.name}.",
            fix=f"Install it there: pip install 'graftwork[{_EXTRAS[error.name]}]'.",
            user=True,
        )
    except GraftworkError as error:
        user = isinstance(error, UserError)
        return Answer(code=error.code, message=error.message, fix=error.fix, user=user)
    return Answer(files=files, url=url)


if __name__ == "__main__":
    sys.exit(main())
