"""What the control plane writes into a run folder: the run once, and its wishes as often as they change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from graftwork.core.errors import Conflict, InvalidRequest
from graftwork.core.specs import DataRef, RunSpec
from graftwork.runs import layout
from graftwork.runs.documents import Control
from graftwork.runs.transport import AlreadyExists, Transport


def prepare(
    transport: Transport,
    spec: RunSpec,
    train: bytes,
    valid: bytes | None,
    start: Mapping[str, bytes] | None = None,
) -> None:
    """Write data, the adapter to start from if there is one, and, last, ``spec.json``. The same content again
    is a no-op.

    Raises:
        Conflict: ``run_differs``, the folder holds another run.
        InvalidRequest: ``data_mismatch``, the bytes are not those that the spec names.
    """
    _check_reference("train", spec.train, layout.TRAIN, train)
    if (spec.valid is None) != (valid is None):
        raise _mismatch("valid", "is named by only one of the specification and the caller")
    _create_same(transport, layout.TRAIN, train)
    if spec.valid is not None and valid is not None:
        _check_reference("valid", spec.valid, layout.VALID, valid)
        _create_same(transport, layout.VALID, valid)
    named = {} if spec.start is None else spec.start.files
    if {name: hashlib.sha256(data).hexdigest() for name, data in (start or {}).items()} != named:
        raise _mismatch("start", "is not the files that the specification names by their sha256")
    for name, data in (start or {}).items():
        _create_same(transport, f"{layout.START}/{name}", data)
    _create_same(transport, layout.SPEC, spec.model_dump_json().encode())


def write_control(transport: Transport, control: Control) -> None:
    """Replace ``control.json``. Only the control plane calls this, holding the job's lease.

    Raises:
        Conflict: ``stale_fence``, the folder already belongs to a later attempt.
    """
    data = transport.read(layout.CONTROL)
    if data is not None:
        held = Control.model_validate_json(data)
        if held.fence > control.fence:
            raise Conflict(
                f"The run is at attempt {held.fence}; attempt {control.fence} no longer speaks for it.",
                code="stale_fence",
            )
    transport.replace(layout.CONTROL, control.to_bytes())


def _check_reference(which: str, reference: DataRef, path: str, data: bytes) -> None:
    if reference.path != path:
        raise _mismatch(which, f"must lie at {path}, not {reference.path}")
    if hashlib.sha256(data).hexdigest() != reference.sha256:
        raise _mismatch(which, "is not the content that the specification names by its sha256")


def _mismatch(which: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"The run's {which} data {what}.",
        fix="Build the specification from the bytes that are written.",
        code="data_mismatch",
        param=which,
    )


def _create_same(transport: Transport, path: str, data: bytes) -> None:
    try:
        transport.create(path, data)
    except AlreadyExists:
        if transport.read(path) != data:
            raise Conflict(
                f"The run folder holds another {path}.",
                fix="A run never changes: use a new run folder.",
                code="run_differs",
            ) from None
