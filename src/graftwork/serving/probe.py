"""Never silently the base model: two checks of an adapter through the serving path, before it may answer
anyone.

Both compare log-probabilities of the same probe tokens. ``effect``: the adapter, as served, must give
other values than the base, as served; an engine that ignores the adapter fails. ``agreement``: the
adapter, as served, must give the values that the trainer computed; an engine with the wrong adapter, the
wrong scale or the wrong tokens fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

Scores = Sequence[float | None]
"""Log-probability of each token of a probe, as ``EngineClient.score`` gives them; the first has none."""

FLOOR = 1e-3
"""Least mean difference, in nats, that is an effect: far above the noise of float32 (about 1e-5)."""
SHARE = 0.5
"""Least part of the trainer's own effect that must be seen when served."""


class Probe(Protocol):
    """Tokens with the trainer's values (``runs.documents.Probe``)."""

    @property
    def tokens(self) -> Sequence[int]:
        """The whole text."""
        ...

    @property
    def start(self) -> int:
        """Scored are ``tokens[start:]``; at least 1, since the first token has no score."""
        ...

    @property
    def logprobs(self) -> Sequence[float]:
        """The trainer's values of ``tokens[start:]`` with the adapter, natural."""
        ...

    @property
    def base_logprobs(self) -> Sequence[float]:
        """The trainer's values of ``tokens[start:]`` without it."""
        ...


@dataclass(frozen=True, slots=True)
class Effect:
    """How much an adapter changes the served values, in nats, over all probe tokens."""

    ok: bool
    tokens: int
    mean: float
    """Mean absolute difference between adapter and base, as served."""
    largest: float
    expected: float
    """The same mean as the trainer measured it."""
    reason: str

    def json(self) -> dict[str, Any]:
        """For a placement's ``probe``; values that are not finite are None."""
        return _json(asdict(self))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far served and trainer's values are apart, in nats, over all probe tokens."""

    ok: bool
    tokens: int
    mean: float
    largest: float
    bound: float
    reason: str

    def json(self) -> dict[str, Any]:
        """For a placement's ``probe``; values that are not finite are None."""
        return _json(asdict(self))


def effect(
    probes: Sequence[Probe],
    served: Sequence[Scores],
    base_served: Sequence[Scores],
    *,
    floor: float = FLOOR,
    share: float = SHARE,
) -> Effect:
    """Whether the served adapter changes the output as much as the trainer says it should.

    Args:
        probes: what was scored.
        served: the adapter's scores, one list for each probe, over all of its tokens.
        base_served: the base model's, likewise.
        floor: least mean difference in nats; raise it for coarse arithmetic (bfloat16: 0.02).
        share: least part of the trainer's own mean difference that must be seen.

    Raises:
        ValueError: the lists do not match the probes.
    """
    differences = [
        abs(mine - theirs)
        for probe, own, base in zip(probes, served, base_served, strict=True)
        for mine, theirs in zip(_tail(probe, own), _tail(probe, base), strict=True)
    ]
    expected = _mean(
        [
            abs(mine - theirs)
            for probe in probes
            for mine, theirs in zip(probe.logprobs, probe.base_logprobs, strict=True)
        ]
    )
    mean, largest = _mean(differences), max(differences, default=math.nan)
    needed = max(floor, share * expected)
    if not differences:
        ok, reason = False, "There were no probe tokens, so no effect could be seen."
    elif not (math.isfinite(mean) and math.isfinite(expected)):
        ok, largest, reason = False, mean, "A value is not finite."
    elif mean < needed:
        ok = False
        reason = f"Served, the adapter changes a log-probability by {mean:.2g} nats; {needed:.2g} are needed."
    else:
        ok, reason = True, f"Served, the adapter changes a log-probability by {mean:.2g} nats on average."
    return Effect(ok, len(differences), mean, largest, expected, reason)


def agreement(probes: Sequence[Probe], served: Sequence[Scores], bound: float) -> Agreement:
    """Whether the served adapter computes what the trainer computed.

    Args:
        probes: what was scored, with the trainer's values.
        served: the adapter's scores, one list for each probe, over all of its tokens.
        bound: largest difference of any token, in nats (float32 on both sides: 1e-3; bfloat16 on one: 0.3).

    Raises:
        ValueError: the lists do not match the probes.
    """
    differences = [
        abs(mine - theirs)
        for probe, own in zip(probes, served, strict=True)
        for mine, theirs in zip(_tail(probe, own), probe.logprobs, strict=True)
    ]
    mean, largest = _mean(differences), max(differences, default=math.nan)
    if not differences:
        ok, reason = False, "There were no probe tokens, so nothing could be compared."
    elif not math.isfinite(mean):
        ok, largest, reason = False, mean, "A value is not finite."
    elif largest > bound:
        ok, reason = (
            False,
            f"A served log-probability is {largest:.2g} nats off the trainer's; {bound:g} is allowed.",
        )
    else:
        ok, reason = True, f"Served log-probabilities are within {largest:.2g} nats of the trainer's."
    return Agreement(ok, len(differences), mean, largest, bound, reason)


def _tail(probe: Probe, scores: Scores) -> list[float]:
    if len(scores) != len(probe.tokens) or probe.start < 1:
        raise ValueError(f"{len(scores)} scores for {len(probe.tokens)} tokens from {probe.start}")
    return [math.nan if value is None else value for value in scores[probe.start :]]


def _json(fields: dict[str, Any]) -> dict[str, Any]:
    broken = {name for name, value in fields.items() if isinstance(value, float) and not math.isfinite(value)}
    return {name: None if name in broken else value for name, value in fields.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
