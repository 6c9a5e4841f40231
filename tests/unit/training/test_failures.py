"""Whose fault a failure is decides whether it is tried again."""

import pytest

from graftwork.core.errors import (
    Conflict,
    InvalidData,
    InvalidRequest,
    NotFound,
    PlatformError,
    TrainingError,
)
from graftwork.training.failures import explain


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidData("x", code="no_labelled_tokens", param="training_file"), "user"),
        (InvalidRequest("x", code="unknown_target"), "user"),
        (Conflict("x"), "platform"),
        (NotFound("x"), "platform"),
        (PlatformError("x", code="disk_full"), "platform"),
        (TrainingError("x"), "platform"),
    ],
)
def test_only_what_the_customer_sent_is_the_customers(error, kind):
    failure = explain(error)
    assert (failure.kind, failure.code, failure.param) == (kind, error.code, error.param)


def test_what_to_do_is_said():
    assert explain(PlatformError("No room.", fix="Free some.")).message == "No room. Free some."
    unexpected = explain(ZeroDivisionError("division by zero"))
    assert (unexpected.code, unexpected.kind) == ("training_error", "platform")
    assert "ZeroDivisionError: division by zero" in unexpected.message
