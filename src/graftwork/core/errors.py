"""The one error tree. Every error has a stable code and says what to do about it.

    GraftworkError
    ├── UserError                 the caller can mend it
    │   ├── InvalidRequest        400  a field is missing, malformed or out of range
    │   ├── InvalidData           400  a data set has findings (carries all of them)
    │   ├── RequestTooLarge       413  the body is over the limit
    │   ├── MethodNotAllowed      405  the path exists, not with this method
    │   ├── Unauthorized          401  no key, or a key that is not (or no longer) ours
    │   ├── Forbidden             403  the key is good, the act is not allowed
    │   ├── NotFound              404  no such thing *in this project*
    │   ├── Conflict              409  the thing is in a state that does not allow this
    │   ├── BudgetExceeded        402  a cap would be passed
    │   └── RateLimited           429  too many requests
    └── PlatformError             500  ours to mend; safe to retry
        ├── Unavailable           503  not ready yet, or out of capacity; retry later
        ├── MachineError          500  a provider refused or lost a machine
        └── TrainingError         500  the trainer died for a reason that is not the data's

A code maps to an HTTP status and a CLI exit code in ``STATUS`` and ``EXIT``, nowhere else.
Errors stay picklable: they carry plain values only.
"""

from __future__ import annotations

from typing import Any


class GraftworkError(Exception):
    """Base of all our errors.

    Attributes:
        code: stable machine-readable code (``snake_case``), part of the public API.
        message: one sentence, what is wrong.
        fix: one sentence, what to do about it; empty only if nothing can be done by the reader.
        param: the offending field of the request, if one is to blame.
        details: JSON-able extras (for example a list of data findings).
    """

    code: str = "internal_error"
    kind: str = "server_error"

    def __init__(
        self,
        message: str,
        *,
        fix: str = "",
        code: str | None = None,
        param: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.param = param
        self.details: dict[str, Any] = details or {}
        if code is not None:
            self.code = code

    @property
    def text(self) -> str:
        """Message and fix as one text for people."""
        return f"{self.message} {self.fix}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.fix, self.code, self.param, self.details))


def _rebuild(
    cls: type[GraftworkError],
    message: str,
    fix: str,
    code: str,
    param: str | None,
    details: dict[str, Any],
) -> GraftworkError:
    return cls(message, fix=fix, code=code, param=param, details=details)


class UserError(GraftworkError):
    """Something the caller can mend."""

    code = "invalid_request"
    kind = "invalid_request_error"


class InvalidRequest(UserError):
    """A field is missing, malformed or out of range."""


class InvalidData(UserError):
    """A data set has findings; ``details["findings"]`` holds every one."""

    code = "invalid_training_file"


class RequestTooLarge(InvalidRequest):
    """The body is over the limit."""

    code = "request_too_large"


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not with this method."""

    code = "method_not_allowed"


class Unauthorized(UserError):
    """No API key, or one that is not ours."""

    code = "invalid_api_key"
    kind = "authentication_error"


class Forbidden(UserError):
    """The key is good, the act is not allowed."""

    code = "forbidden"
    kind = "permission_error"


class NotFound(UserError):
    """No such thing in this project (also said of things in other projects)."""

    code = "not_found"


class Conflict(UserError):
    """The thing is in a state that does not allow this."""

    code = "conflict"


class BudgetExceeded(UserError):
    """A spending cap would be passed."""

    code = "budget_exceeded"
    kind = "insufficient_quota"


class RateLimited(UserError):
    """Too many requests."""

    code = "rate_limit_exceeded"
    kind = "rate_limit_error"


class PlatformError(GraftworkError):
    """Ours to mend; retrying is safe."""


class Unavailable(PlatformError):
    """Not ready yet, or out of capacity."""

    code = "not_ready"
    kind = "service_unavailable"


class MachineError(PlatformError):
    """A provider refused or lost a machine."""

    code = "machine_error"


class TrainingError(PlatformError):
    """The trainer died for a reason that is not the data's."""

    code = "training_error"


STATUS: dict[type[GraftworkError], int] = {
    InvalidRequest: 400,
    InvalidData: 400,
    RequestTooLarge: 413,
    MethodNotAllowed: 405,
    Unauthorized: 401,
    BudgetExceeded: 402,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    RateLimited: 429,
    UserError: 400,
    Unavailable: 503,
    PlatformError: 500,
    GraftworkError: 500,
}
"""HTTP status by class; the nearest ancestor in the tree counts."""

EXIT: dict[type[GraftworkError], int] = {
    InvalidRequest: 2,
    InvalidData: 2,
    Unauthorized: 3,
    Forbidden: 3,
    NotFound: 4,
    Conflict: 5,
    Unavailable: 6,
    BudgetExceeded: 7,
    RateLimited: 6,
    GraftworkError: 1,
}
"""CLI exit code by class; 0 is success, 2 also a usage error, 130 an interrupt."""


def http_status(error: GraftworkError) -> int:
    """HTTP status of an error."""
    return _nearest(STATUS, type(error))


def exit_code(error: GraftworkError) -> int:
    """CLI exit code of an error."""
    return _nearest(EXIT, type(error))


def envelope(error: GraftworkError) -> dict[str, Any]:
    """OpenAI's error envelope: ``{"error": {"message", "type", "param", "code"}}`` plus our details."""
    body: dict[str, Any] = {
        "message": error.text,
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }
    if error.details:
        body["graftwork"] = error.details
    return {"error": body}


def _nearest(table: dict[type[GraftworkError], int], cls: type[GraftworkError]) -> int:
    for ancestor in cls.__mro__:
        if ancestor in table:
            return table[ancestor]
    return table[GraftworkError]
