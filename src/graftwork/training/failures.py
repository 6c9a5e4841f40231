"""From an exception to the result of a failed attempt: whose fault, which code, what to do."""

from __future__ import annotations

import traceback

from graftwork.core.errors import GraftworkError, InvalidData, InvalidRequest, TrainingError
from graftwork.core.states import Outcome
from graftwork.runs.documents import Message, Result, RunError
from graftwork.training.attempt import Attempt


def explain(error: Exception) -> RunError:
    """The customer's errors are ``user``: a new attempt would end the same way. Others are ``platform``."""
    if isinstance(error, GraftworkError):
        kind = "user" if isinstance(error, InvalidRequest | InvalidData) else "platform"
        return RunError(code=error.code, message=error.text, kind=kind, param=error.param)
    message = f"The trainer stopped on an unexpected error ({type(error).__name__}: {error})."
    return RunError(code=TrainingError.code, message=f"{message} It can be tried again.", kind="platform")


def record(attempt: Attempt, error: Exception, step: int, tokens: int) -> RunError:
    """Write the error as the attempt's last message, its log and its result.

    Raises:
        OSError, GraftworkError: not even that could be written (a full disk); the attempt counts as lost.
    """
    failure = explain(error)
    attempt.ended = True
    attempt.writer.log("".join(traceback.format_exception(error)))
    attempt.writer.emit(
        Message(at=attempt.clocks.now(), level="error", message=failure.message, code=failure.code)
    )
    attempt.end(
        Result(outcome=Outcome.FAILED, error=failure, step=step, tokens=tokens, seconds=attempt.seconds)
    )
    return failure
