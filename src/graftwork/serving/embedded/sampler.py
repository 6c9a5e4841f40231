"""From logits to the next token: greedy, or drawn with the request's own random numbers.

A sequence's draws depend on its logits and its seed alone, never on what else is in the batch: each draw
takes one number from the sequence's own generator and looks it up in the cumulated probabilities.
"""

from __future__ import annotations

import random
from collections.abc import Sequence as Rows

import torch

from graftwork.serving.wire.backend import Sampling, Scored


def finite(logits: torch.Tensor) -> list[bool]:
    """For each row of [n, vocabulary]: whether every logit is a number."""
    return torch.isfinite(logits).all(dim=-1).tolist()


def draw(logits: torch.Tensor, sampling: Rows[Sampling], chance: Rows[random.Random]) -> list[int]:
    """The next token of each row of float32 [n, vocabulary]."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for index, (how, generator) in enumerate(zip(sampling, chance, strict=True)):
        if how.temperature > 0:
            tokens[index] = _draw_one(logits[index], how, generator.random())
    return tokens


def _draw_one(logits: torch.Tensor, how: Sampling, chance: float) -> int:
    # In double precision, so that the temperature's division and the sum keep their order for every row.
    scaled = logits.double() / how.temperature
    order: torch.Tensor | None = None
    if how.top_k > 0 or how.top_p < 1:
        count = min(how.top_k or len(scaled), len(scaled))
        scaled, order = scaled.topk(count)
    heap = torch.softmax(scaled, dim=-1).cumsum(dim=-1)
    last = len(heap) - 1
    if how.top_p < 1:
        # The smallest set whose mass reaches top_p (Holtzman et al. 2020, arXiv:1904.09751), the
        # likeliest always.
        last = min(int(torch.searchsorted(heap, how.top_p)), last)
    mass = float(heap[last])
    place = min(int(torch.searchsorted(heap, chance * mass, right=True)), last)
    return place if order is None else int(order[place])


def score(logits: torch.Tensor, targets: Rows[int], top: Rows[int]) -> list[Scored]:
    """Log-probability of each row's target, and its ``top`` likeliest tokens.

    Args:
        logits: float32 [n, vocabulary].
        targets: n token ids.
        top: n counts, each possibly 0.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    wanted = torch.tensor(list(targets), device=logits.device)
    own: list[float] = logprobs.gather(1, wanted[:, None])[:, 0].tolist()
    widest = max(top, default=0)
    if not widest:
        return [Scored(token, value) for token, value in zip(targets, own, strict=True)]
    values, ids = logprobs.topk(min(widest, logprobs.shape[1]))
    rows = zip(targets, own, ids.tolist(), values.tolist(), top, strict=True)
    return [
        Scored(token, value, tuple(zip(best[:n], scores[:n], strict=True)))
        for token, value, best, scores, n in rows
    ]
