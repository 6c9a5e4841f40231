"""Cross-entropy where there is a label, and nowhere else.

The vocabulary is the widest layer of a small model: leaving prompts and padding out of it, and never holding
all logits at once, is most of the speed and memory that a trainer can win (docs/training.md has numbers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from graftwork.data.rendering import Encoded
from graftwork.training.seeds import mixed

CHUNK_ELEMENTS = 1 << 27
"""Logits held at once: 2^27 fp32 numbers are 512 MiB."""


def padded(rows: Sequence[Encoded], device: torch.device) -> torch.Tensor:
    """Token ids [rows, longest], padded with 0 on the right.

    Attention is causal, so what stands on the right is never seen by a token that counts: no mask is needed.
    """
    longest = max(len(row.tokens) for row in rows)
    ids = [row.tokens + [0] * (longest - len(row.tokens)) for row in rows]
    return torch.tensor(ids, dtype=torch.long).to(device, non_blocking=True)


def labelled(rows: Sequence[Encoded], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where predictions count: indices [n] into the padded batch laid flat, and the tokens [n] to predict.

    Token ``t`` is predicted at position ``t - 1``; a first token is never predicted.
    """
    longest = max(len(row.tokens) for row in rows)
    where: list[int] = []
    targets: list[int] = []
    for number, row in enumerate(rows):
        start = number * longest - 1
        for index in range(1, len(row.tokens)):
            if row.labels[index]:
                where.append(start + index)
                targets.append(row.tokens[index])
    pair = torch.tensor([where, targets], dtype=torch.long).to(device, non_blocking=True)
    return pair[0], pair[1]


def cross_entropy(
    hidden: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    targets: torch.Tensor,
    vocabulary: int,
    held: int = CHUNK_ELEMENTS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed loss and number of correct first choices of ``targets`` [n] under ``head(hidden [n, width])``.

    Logits are cast to fp32. More than ``held`` of them are computed in chunks, and again in the
    backward pass, instead of being held.
    """
    size = max(1, held // vocabulary)
    if len(targets) <= size:
        return _chunk(hidden, head, targets)
    loss = hidden.new_zeros((), dtype=torch.float32)
    correct = torch.zeros((), dtype=torch.long, device=hidden.device)
    for piece, wanted in zip(hidden.split(size), targets.split(size), strict=True):
        part, hits = checkpoint(_chunk, piece, head, wanted, use_reentrant=False)
        loss, correct = loss + part, correct + hits
    return loss, correct


def _chunk(
    hidden: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor], targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = head(hidden).float()
    correct = (logits.detach().argmax(-1) == targets).sum()
    return functional.cross_entropy(logits, targets, reduction="sum"), correct


def token_scores(
    hidden: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    targets: torch.Tensor,
    vocabulary: int,
    held: int = CHUNK_ELEMENTS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities fp32 [n] of ``targets`` [n], and which were the first choice, bool [n].

    Differentiable; chunked as ``cross_entropy`` is.
    """
    size = max(1, held // vocabulary)
    parts = [
        checkpoint(_chunk_scores, piece, head, wanted, use_reentrant=False)
        for piece, wanted in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return torch.cat([scores for scores, _ in parts]), torch.cat([hits for _, hits in parts])


def _chunk_scores(
    hidden: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor], targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = head(hidden).float()
    hits = logits.detach().argmax(-1) == targets
    return -functional.cross_entropy(logits, targets, reduction="none"), hits


def embedding_noise(length: int, width: int, alpha: float, seed: int) -> torch.Tensor:
    """NEFTune's noise for one row, fp32 [length, width]: uniform within alpha / sqrt(length · width).

    Jain et al. 2023 (arXiv:2310.05914). Drawn on the CPU, so that it is the same on every device.
    """
    generator = torch.Generator().manual_seed(mixed(seed, "noise"))
    reach = alpha / math.sqrt(length * width)
    return torch.empty(length, width).uniform_(-reach, reach, generator=generator)
