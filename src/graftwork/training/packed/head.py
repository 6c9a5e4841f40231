"""lm_head and cross-entropy where there is a label, and nowhere else, with a hand-written gradient.

All logits never exist at once: each chunk of labelled tokens goes through the head, becomes losses and, where
a gradient is wanted, at once that of the hidden states. No gradient of the head itself is ever computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graftwork.training.packed.elementwise import kernel
from graftwork.training.packed.matmul import times

CHUNK_ELEMENTS = 1 << 22
"""Logits held at once: 2^22 fp32 numbers are 16 MiB."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the head made of n labelled tokens."""

    losses: torch.Tensor
    """fp32 [n]: negative log-likelihoods, nats."""
    hits: torch.Tensor
    """bool [n]: the label was the first choice."""
    gradient: torch.Tensor | None
    """[n, width], of the hidden states, if slopes were given."""


@torch.no_grad()
def answer(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    slopes: torch.Tensor | None = None,
    held: int | None = None,
) -> Answered:
    """Cross-entropy of ``targets [n]`` under the logits ``hidden [n, width] @ weightᵀ``, softmax in fp32.

    Args:
        weight: [vocabulary, width].
        slopes: fp32 [n], derivative of the wanted quantity to each token's loss; None: no gradient.
        held: at most so many logits at once.
    """
    size = max(1, (held or CHUNK_ELEMENTS) // weight.shape[0])
    losses = hidden.new_empty(len(targets), dtype=torch.float32)
    hits = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
    gradient = None if slopes is None else torch.empty_like(hidden)
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        logits = times(hidden[part], weight).float()
        slope = None if slopes is None else slopes[part]
        losses[part], hits[part], table = _chunk(logits, targets[part], slope)
        if gradient is not None:
            gradient[part] = times(table.to(hidden.dtype), weight.t())
    return Answered(losses, hits, gradient)


def _chunk(
    logits: torch.Tensor, targets: torch.Tensor, slopes: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses and hits [n], and the gradient of the ``logits`` [n, vocabulary], which are used up."""
    run = kernel(logits)
    if run is not None:
        losses, hits = logits.new_empty(len(targets)), targets.new_empty(len(targets), dtype=torch.bool)
        run("answer", logits, targets, slopes, losses, hits, *logits.shape)
        return losses, hits, logits
    best, chosen = logits.amax(-1), logits.gather(1, targets[:, None])[:, 0]
    table = torch.softmax(logits, -1)
    losses = best - chosen - table.amax(-1).log()
    if slopes is not None:
        table.mul_(slopes[:, None]).scatter_add_(1, targets[:, None], -slopes[:, None])
    return losses, chosen == best, table
