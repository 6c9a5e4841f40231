"""Never silently the base model: two checks of an adapter through the serving path, before it may answer
anyone.

Both compare log-probabilities of the same probe tokens. ``effect``: the adapter, as served, must give
other values than the base, as served; an engine that ignores the adapter fails. ``agreement``: the
adapter, as served, must give the values that the trainer computed; an engine with the wrong adapter, the
wrong scale or the wrong tokens fails.

An adapter trained on a base in 4 bits (QLoRA) is served on the base as published, which gives other values
with any adapter or none. How far they may be apart is then measured on the spot: by the base itself, served
against trained, on the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

SHIFTS = 2.0
"""How many times the base's own shift an adapter trained in 4 bits may be off, in the mean and at the most.
On the built-in model, on three data sets: 0.05, 0.2 and 0.3 times in the mean (0.02 to 0.07 nats),
0.2 to 0.6 times at the most (0.6 to 1.0 nats). An adapter that has hardly learnt is off like the base."""
BASE_SHIFT = 1.0
"""Most that the base may be off in the mean, in nats: beyond, it is another model. Measured on the built-in
model, which is small and so hit hardest: 0.17 to 0.42."""
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

    @property
    def quantization(self) -> str:
        """How the trainer held the base: ``none``, or ``nf4``."""
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
    base_mean: float | None = None
    """Mean shift of the base itself, where the trainer held it in 4 bits."""

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


def agreement(
    probes: Sequence[Probe],
    served: Sequence[Scores],
    bound: float,
    base_served: Sequence[Scores] | None = None,
) -> Agreement:
    """Whether the served adapter computes what the trainer computed.

    Of a trainer that held the base in 4 bits, the values may be off by ``bound`` and ``SHIFTS`` times what
    the base is off on the same tokens, in the mean as at the most, and the base by ``BASE_SHIFT`` (mean).

    Args:
        probes: what was scored, with the trainer's values.
        served: the adapter's scores, one list for each probe, over all of its tokens.
        bound: largest difference of any token, in nats (float32 on both sides: 1e-3; bfloat16 on one: 0.3).
        base_served: the base model's scores; needed where the trainer held it in 4 bits.

    Raises:
        ValueError: the lists do not match the probes, or the base's are needed and not there.
    """
    differences = [
        abs(mine - theirs)
        for probe, own in zip(probes, served, strict=True)
        for mine, theirs in zip(_tail(probe, own), probe.logprobs, strict=True)
    ]
    mean, largest = _mean(differences), max(differences, default=math.nan)
    packed = any(probe.quantization != "none" for probe in probes)
    shifts = _base_shifts(probes, base_served) if packed else []
    base_mean = _mean(shifts) if packed else None
    mean_bound = bound + SHIFTS * (base_mean or 0.0)
    bound += SHIFTS * max(shifts, default=0.0)
    if not differences:
        why_not = "There were no probe tokens, so nothing could be compared."
    elif not all(map(math.isfinite, (*differences, *shifts))):
        why_not, largest, bound = "A value is not finite.", mean, bound if math.isfinite(bound) else math.nan
    elif base_mean is not None and base_mean > BASE_SHIFT:
        why_not = f"The base itself, served, is {base_mean:.2g} nats off the trainer's in the mean."
    elif largest > bound:
        why_not = f"A served log-probability is {largest:.2g} nats off the trainer's; {bound:.3g} is allowed."
    elif mean > mean_bound:
        why_not = f"In the mean they are {mean:.2g} nats off the trainer's; {mean_bound:.2g} is allowed."
    else:
        why_not = ""
    reason = why_not or f"Served log-probabilities are within {largest:.2g} nats of the trainer's."
    return Agreement(not why_not, len(differences), mean, largest, bound, reason, base_mean)


def _base_shifts(probes: Sequence[Probe], base_served: Sequence[Scores] | None) -> list[float]:
    """How far the base as served is off the trainer's, token by token, in nats."""
    if base_served is None:
        raise ValueError("the base's scores are needed: the trainer held it in 4 bits")
    return [
        abs(mine - theirs)
        for probe, base in zip(probes, base_served, strict=True)
        for mine, theirs in zip(_tail(probe, base), probe.base_logprobs, strict=True)
    ]


def _tail(probe: Probe, scores: Scores) -> list[float]:
    if len(scores) != len(probe.tokens) or probe.start < 1:
        raise ValueError(f"{len(scores)} scores for {len(probe.tokens)} tokens from {probe.start}")
    return [math.nan if value is None else value for value in scores[probe.start :]]


def _json(fields: dict[str, Any]) -> dict[str, Any]:
    broken = {name for name, value in fields.items() if isinstance(value, float) and not math.isfinite(value)}
    return {name: None if name in broken else value for name, value in fields.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
