"""Assignment lists: one object for each machine, written by the control plane alone, read by its trainer."""

from __future__ import annotations

from pydantic import ValidationError

from graftwork.core.errors import InvalidRequest, PlatformError
from graftwork.runs.documents import Assignments
from graftwork.runs.transport import Transport, open_transport


def write_assignments(uri: str, assignments: Assignments) -> None:
    """Replace the list at ``uri``."""
    transport, name = _place(uri)
    transport.replace(name, assignments.to_bytes())


def read_assignments(uri: str) -> Assignments | None:
    """The list at ``uri``; None when there is none.

    Raises:
        PlatformError: ``assignments_corrupt``, it is not one.
    """
    transport, name = _place(uri)
    data = transport.read(name)
    if data is None:
        return None
    try:
        return Assignments.model_validate_json(data)
    except ValidationError as error:
        raise PlatformError(
            f"The assignment list {uri} cannot be read: {error.error_count()} problems.",
            fix="It is written again by the control plane.",
            code="assignments_corrupt",
        ) from error


def _place(uri: str) -> tuple[Transport, str]:
    folder, slash, name = uri.rpartition("/")
    if not slash or not name:
        raise InvalidRequest(
            f"{uri!r} does not name an assignment list.",
            fix="Name a file in a folder: a path or a file:// URL.",
            code="invalid_assignments",
            param="assignments",
        )
    return open_transport(folder), name
