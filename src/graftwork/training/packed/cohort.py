"""Which adapters' spans are multiplied together, and how they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch

from graftwork.training.packed.bank import Bank
from graftwork.training.packed.layout import Span
from graftwork.training.seeds import mixed


@dataclass(frozen=True)
class Cohort:
    """Neighbouring spans of one bank, in slot order."""

    bank: Bank
    tokens: slice
    slots: slice
    """Rows of the bank from the first to the last in the cohort; those between may have no tokens."""
    spans: tuple[Span, ...]
    sizes: tuple[int, ...]
    """Tokens of each slot."""
    scales: torch.Tensor
    """fp32: alpha / r of each slot, in main memory."""

    @cached_property
    def edges(self) -> torch.Tensor:
        """int64: where each slot's tokens end, from the cohort's first; in main memory."""
        return torch.tensor(self.sizes).cumsum(0)

    @cached_property
    def ends(self) -> torch.Tensor | None:
        """``edges`` as int32 on the bank's device; None: all have equally many."""
        device = self.bank.weights.device
        return self.edges.to(device, torch.int32, non_blocking=True) if len(set(self.sizes)) > 1 else None

    @cached_property
    def scale(self) -> torch.Tensor:
        """fp32 [tokens, 1] on the bank's device: alpha / r of each token's adapter."""
        each = self.scales.repeat_interleave(torch.tensor(self.sizes))
        return each[:, None].to(self.bank.weights.device, non_blocking=True)

    def keep(self, key: str, width: int, device: torch.device) -> torch.Tensor | None:
        """Dropout's factors fp32 [tokens, width] for the input of group ``key``; None: no dropout.

        They follow from a row's seed and the group alone, so they are drawn again in the backward pass.
        """
        if not any(span.seeds for span in self.spans):
            return None
        generator = torch.Generator(device)
        tokens = self.tokens.stop - self.tokens.start
        factors = torch.ones(tokens, width, device=device)
        for span in self.spans:
            rate = span.tenant.dropout if span.tenant and span.seeds else 0.0
            at = span.tokens.start - self.tokens.start
            for seed, length in zip(span.seeds, span.lengths, strict=True):
                generator.manual_seed(mixed(seed, key))
                part = factors[at : at + length]
                part.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
                at += length
        return factors


def cohorts(spans: Sequence[Span]) -> tuple[Cohort, ...]:
    """The adapted spans, by bank."""
    found: list[Cohort] = []
    for bank, members in groupby(spans, key=lambda span: span.tenant and span.tenant.bank):
        if bank is not None:
            found.append(_cohort(bank, tuple(members)))
    return tuple(found)


def _cohort(bank: Bank, spans: tuple[Span, ...]) -> Cohort:
    tenants = [span.tenant for span in spans if span.tenant]
    first, last = tenants[0].slot, tenants[-1].slot
    begin = spans[0].tokens.start
    sizes, scales = [0] * (last - first + 1), [1.0] * (last - first + 1)
    for tenant, span in zip(tenants, spans, strict=True):
        sizes[tenant.slot - first] += span.tokens.stop - span.tokens.start
        scales[tenant.slot - first] = tenant.scale
    where = slice(begin, spans[-1].tokens.stop), slice(first, last + 1)
    return Cohort(bank, *where, spans, tuple(sizes), torch.tensor(scales))
