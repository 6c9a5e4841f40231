import pickle
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.core import errors, ids, money


@given(st.integers(min_value=0, max_value=10**12), st.integers(min_value=0, max_value=10**9))
def test_token_cost_rounds_up_and_never_below(tokens: int, price: int):
    cost = money.tokens_cost(tokens, price)
    assert cost * money.MICRO >= tokens * price > (cost - 1) * money.MICRO


def test_seconds_are_billed_by_the_started_second():
    assert money.seconds_cost(0.2, 3_600_000) == 1000
    assert money.seconds_cost(2.0, 3_600_000) == 2000


@given(st.integers(min_value=0, max_value=10**15))
def test_dollars_round_trip(micro: int):
    assert money.parse_dollars(money.dollars(micro)) == micro


@pytest.mark.parametrize("text", ["", "-1", "1e3", "0.1234567", "five"])
def test_bad_amounts_are_refused(text: str):
    with pytest.raises(ValueError, match="dollar amount"):
        money.parse_dollars(text)


def test_errors_survive_pickling_and_map_to_a_status():
    error = errors.NotFound(
        "No such job.", fix="List them.", code="job_not_found", param="id", details={"a": 1}
    )
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.text, again.code, again.param, again.details) == (
        errors.NotFound,
        "No such job. List them.",
        "job_not_found",
        "id",
        {"a": 1},
    )
    assert errors.http_status(again) == 404
    assert errors.exit_code(again) == 4
    assert errors.envelope(again)["error"]["type"] == "invalid_request_error"


def test_every_class_has_a_status_and_an_exit_code():
    def tree(cls: type[errors.GraftworkError]):
        yield cls
        for sub in cls.__subclasses__():
            yield from tree(sub)

    for cls in tree(errors.GraftworkError):
        assert 400 <= errors.http_status(cls("x")) < 600
        assert errors.exit_code(cls("x")) > 0


def test_uuid7_is_version_7_and_sorted_by_time():
    made = [ids.uuid7() for _ in range(200)]
    assert all(uuid.UUID(x).version == 7 for x in made)
    assert [x[:13] for x in made] == sorted(x[:13] for x in made)


def test_machine_names_are_deterministic():
    assert ids.machine_name("abc", "ftjob-XyZ1", 2) == "gw-abc-xyz1-2"
