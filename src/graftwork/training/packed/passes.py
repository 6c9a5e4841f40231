"""The work of several sessions, cut into passes that fit the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graftwork.core.errors import TrainingError
from graftwork.training.engine import Rows, Work, nothing_to_learn
from graftwork.training.loss import embedding_noise
from graftwork.training.packed.bank import Tenant
from graftwork.training.packed.layout import Stretch, used
from graftwork.training.seeds import row_seed


@dataclass(frozen=True, slots=True)
class Share:
    """Neighbouring rows of one work in one pass."""

    number: int
    """Of the work."""
    work: Work
    tenant: Tenant
    rows: Rows
    """Whole examples."""
    first: int
    """Index of the first row among all rows of the work."""
    labelled: int
    """Labelled tokens of the whole work."""

    @property
    def kept(self) -> list[int]:
        """Indices into ``rows`` of those that have a label: the others teach nothing and are left out."""
        return [n for n, row in enumerate(self.rows) if used(row)]

    def stretch(self) -> Stretch:
        """As a part of the layout."""
        kept = self.kept
        seeds = tuple(row_seed(self.work.seed, self.first + n) for n in kept)
        return Stretch(self.tenant, [self.rows[n] for n in kept], seeds)

    def noise(self, width: int) -> torch.Tensor | None:
        """NEFTune's noise fp32 [tokens, width] for the tokens that enter the model."""
        alpha = self.work.noise
        if alpha is None:
            return None
        rows = [(self.rows[n], row_seed(self.work.seed, self.first + n)) for n in self.kept]
        return torch.cat(
            [embedding_noise(len(row.tokens), width, alpha, seed)[: used(row)] for row, seed in rows]
        )


def check(work: Work, vocabulary: int) -> None:
    """Refuse what could only fail in the middle of a pass.

    Raises:
        TrainingError: ``no_labelled_tokens``, or ``token_out_of_range``.
    """
    rows = [row for batch in work.batches for row in batch]
    if not any(used(row) for row in rows):
        raise nothing_to_learn()
    for row in rows:
        if row.tokens and (max(row.tokens) >= vocabulary or min(row.tokens) < 0):
            raise TrainingError(
                f"A row has a token that the base model's vocabulary of {vocabulary} does not have.",
                fix="Render the data with the tokenizer of this base model.",
                code="token_out_of_range",
            )


def cut(works: Sequence[tuple[int, Work, Tenant]], limit: int) -> list[list[Share]]:
    """All rows in passes of at most ``limit`` tokens, as few as may be; a longer example goes alone.

    Within a pass the works follow their adapters' places in the banks.
    """
    passes: list[list[Share]] = [[]]
    room = limit
    for number, work, tenant in sorted(works, key=lambda item: (id(item[2].bank), item[2].slot)):
        rows = [row for batch in work.batches for row in batch]
        labelled, step, start, end = work.labelled, work.objective.rows_per_example, 0, 0
        while end < len(rows):
            size = sum(used(row) for row in rows[end : end + step])
            if size > room and (end > start or passes[-1]):
                if end > start:
                    passes[-1].append(Share(number, work, tenant, rows[start:end], start, labelled))
                passes.append([])
                start, room = end, limit
            room -= size
            end += step
        if end > start:
            passes[-1].append(Share(number, work, tenant, rows[start:end], start, labelled))
    return [shares for shares in passes if any(share.kept for share in shares)]
