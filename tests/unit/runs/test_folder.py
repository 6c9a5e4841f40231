"""Preparing a run folder and steering it."""

import hashlib

import pytest

from graftwork.core.errors import Conflict, InvalidRequest, PlatformError
from graftwork.core.specs import DataRef
from graftwork.core.states import Want
from graftwork.runs.documents import Control
from graftwork.runs.folder import prepare, write_control
from graftwork.runs.reader import RunReader

TRAIN = b'{"messages":[]}\n'
VALID = b'{"messages":[1]}\n'


def control(fence, **changes):
    return Control(fence=fence, lease_until=10.0, deadline=20.0, **changes)


def test_prepare_is_idempotent_and_writes_the_spec_last(transport, spec):
    prepare(transport, spec, TRAIN, None)
    prepare(transport, spec, TRAIN, None)
    assert RunReader(transport).spec() == spec
    assert transport.list("") == ["data/train.jsonl", "spec.json"]


def test_prepare_refuses_another_run_in_the_same_folder(transport, spec):
    prepare(transport, spec, TRAIN, None)
    with pytest.raises(Conflict) as caught:
        prepare(transport, spec.model_copy(update={"seed": 2}), TRAIN, None)
    assert caught.value.code == "run_differs"


def test_prepare_refuses_bytes_that_the_spec_does_not_name(transport, spec):
    valid = DataRef(path="data/valid.jsonl", sha256=hashlib.sha256(VALID).hexdigest(), rows=1)
    both = spec.model_copy(update={"valid": valid})
    for wrong, train, held in (
        (spec, b"other", None),
        (spec, TRAIN, VALID),
        (both, TRAIN, None),
        (both, TRAIN, b"x"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            prepare(transport, wrong, train, held)
        assert caught.value.code == "data_mismatch"
    assert "spec.json" not in transport.list("")
    prepare(transport, both, TRAIN, VALID)


def test_a_folder_without_a_spec_says_so(transport):
    with pytest.raises(PlatformError) as caught:
        RunReader(transport).spec()
    assert caught.value.code == "run_folder_incomplete"


def test_control_is_replaced_but_never_by_an_older_attempt(transport):
    assert RunReader(transport).control() is None
    write_control(transport, control(1))
    write_control(transport, control(2, want=Want.CANCEL))
    with pytest.raises(Conflict) as caught:
        write_control(transport, control(1))
    assert caught.value.code == "stale_fence"
    assert RunReader(transport).control() == control(2, want=Want.CANCEL)
