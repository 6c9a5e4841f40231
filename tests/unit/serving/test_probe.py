"""The two checks of an adapter through the serving path."""

from __future__ import annotations

import json
import math

import pytest

from graftwork.runs.documents import Probe
from graftwork.serving.probe import agreement, effect

PROBES = [
    Probe(tokens=[1, 2, 3, 4], start=2, logprobs=[-0.1, -0.2], base_logprobs=[-3.0, -2.0]),
    Probe(tokens=[5, 6], start=1, logprobs=[-0.5], base_logprobs=[-1.5]),
]
SERVED = [[None, -9.0, -0.1, -0.2], [None, -0.5]]
BASE = [[None, -9.0, -3.0, -2.0], [None, -1.5]]


def test_an_adapter_that_acts_as_trained_passes_both() -> None:
    seen = effect(PROBES, SERVED, BASE)
    assert seen.ok
    assert (seen.tokens, seen.largest) == (3, pytest.approx(2.9))
    assert seen.mean == pytest.approx((2.9 + 1.8 + 1.0) / 3) == pytest.approx(seen.expected)
    agreed = agreement(PROBES, SERVED, bound=1e-3)
    assert agreed.ok
    assert (agreed.tokens, agreed.largest, agreed.mean) == (3, 0, 0)


def test_the_base_in_the_adapters_place_fails_both() -> None:
    seen = effect(PROBES, BASE, BASE)
    assert not seen.ok
    assert seen.mean == 0
    assert "needed" in seen.reason
    agreed = agreement(PROBES, BASE, bound=0.5)
    assert not agreed.ok
    assert agreed.largest == pytest.approx(2.9)
    assert "2.9" in agreed.reason


def test_half_an_adapter_is_too_little() -> None:
    """An engine that applies the wrong scale changes the output, but not as much as it should."""
    weak = [[None, -9.0, -2.5, -1.8], [None, -1.4]]
    assert not effect(PROBES, weak, BASE).ok
    assert effect(PROBES, weak, BASE, share=0.1).ok


def test_what_is_before_the_start_does_not_count() -> None:
    odd = [[None, 0.0, -0.1, -0.2], [None, -0.5]]
    assert agreement(PROBES, odd, bound=0).ok


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_values_that_are_not_finite_fail_and_stay_json(value: float | None) -> None:
    broken = [[None, -9.0, value, -0.2], [None, -0.5]]
    for result in (effect(PROBES, broken, BASE), agreement(PROBES, broken, bound=100)):
        assert not result.ok
        assert "not finite" in result.reason
        json.dumps(result.json(), allow_nan=False)


def test_no_probes_prove_nothing() -> None:
    assert not effect([], [], []).ok
    assert not agreement([], [], bound=1).ok


def test_lists_that_do_not_match_are_a_bug() -> None:
    with pytest.raises(ValueError, match="3 scores for 4 tokens"):
        agreement(PROBES, [[None, -9.0, -0.1], [None, -0.5]], bound=1)
    with pytest.raises(ValueError, match="zip"):
        effect(PROBES, SERVED[:1], BASE)


def packed(probes: list[Probe]) -> list[Probe]:
    return [probe.model_copy(update={"quantization": "nf4"}) for probe in probes]


def off(scores: list[list[float | None]], by: float) -> list[list[float | None]]:
    return [[None if value is None else value + by for value in row] for row in scores]


def test_trained_in_4_bits_the_bases_own_shift_is_allowed_for_and_no_more() -> None:
    shifted = off(BASE, 0.2)
    near, far = off(SERVED, 0.35), off(SERVED, 0.45)
    agreed = agreement(packed(PROBES), near, 0.01, shifted)
    assert agreed.ok
    assert agreed.base_mean == pytest.approx(0.2) and agreed.bound == pytest.approx(0.41)
    assert not agreement(PROBES, near, 0.01, shifted).ok, "trained as it is served, nothing is allowed for"
    assert not agreement(packed(PROBES), far, 0.01, shifted).ok
    one = [[None, -9.0, -3.0, -0.5], [None, -1.5]]  # the base is off at one token: no excuse for all
    assert "In the mean" in agreement(packed(PROBES), off(SERVED, 1.2), 0.01, one).reason


def test_trained_in_4_bits_the_base_in_the_adapters_place_and_another_base_fail() -> None:
    assert not agreement(packed(PROBES), off(BASE, 0.2), 0.01, off(BASE, 0.2)).ok
    other = agreement(packed(PROBES), off(SERVED, 1.1), 0.01, off(BASE, 1.1))
    assert not other.ok and "The base itself" in other.reason
    with pytest.raises(ValueError, match="needed"):
        agreement(packed(PROBES), SERVED, 0.01)
    broken = agreement(packed(PROBES), SERVED, 0.01, off(BASE, math.nan))
    assert not broken.ok
    json.dumps(broken.json(), allow_nan=False)
