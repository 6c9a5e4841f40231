"""docs/compute.md says what the port and the local provider do."""

import inspect
from pathlib import Path

import pytest

from graftwork.compute import port
from graftwork.compute.local.models import LocalOptions
from graftwork.core.errors import GraftworkError

TEXT = (Path(__file__).parents[3] / "docs" / "compute.md").read_text()
ERRORS = [
    thing
    for _, thing in inspect.getmembers(port, inspect.isclass)
    if issubclass(thing, GraftworkError) and thing.__module__ == port.__name__
]


@pytest.mark.parametrize("error", ERRORS)
def test_the_page_has_every_error_with_its_code(error):
    assert f"| `{error.__name__}` | `{error.code}` |" in TEXT


def test_codes_are_told_apart():
    assert len({error.code for error in ERRORS}) == len(ERRORS) == 6


@pytest.mark.parametrize("operation", ["offers", "launch", "find", "describe", "terminate", "logs"])
def test_the_page_has_every_operation(operation):
    assert f"\n{operation}(" in TEXT
    assert operation in vars(port.Provider)


@pytest.mark.parametrize("option", LocalOptions.model_fields)
def test_the_page_has_every_option(option):
    assert f"`{option}`" in TEXT
