"""The packed engine: one forward and one backward pass over the rows of every adapter that has work.

What an adapter gets does not depend on its neighbours: rows see themselves alone, each adapter's gradients
are sums over its own tokens, and trouble (NaN, impossible tokens, too little memory) stays with the work it
is of. In company "fast" (the default) sums may be rounded otherwise than alone, in the last bits; in company
"exact" they are the same to the last bit, because each adapter then has passes of its own (docs/engine.md).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch
from transformers import PreTrainedModel

from graftwork.core.errors import GraftworkError, InvalidRequest, TrainingError
from graftwork.core.specs import LoraSpec, Quantization
from graftwork.data.rendering import Encoded
from graftwork.training.engine import ANSWERS, Adapter, Rows, Slopes, Sums, Work
from graftwork.training.loading import load_model
from graftwork.training.machine import describe, pick_device
from graftwork.training.nf4 import is_packed
from graftwork.training.packed.bank import Banks, Tenant
from graftwork.training.packed.body import Body
from graftwork.training.packed.head import Answered, answer
from graftwork.training.packed.layout import Layout, Stretch, pack, used
from graftwork.training.packed.passes import Share, check, cut

T = TypeVar("T")
Company = Literal["fast", "exact"]
COMPANY = "GRAFTWORK_COMPANY"
"""Environment variable: the default of ``PackedEngine``'s ``company``."""
MAX_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Tokens of one pass, by device, when no plan says otherwise: more holds more memory and is hardly faster."""


class PackedEngine:
    """See ``Engine``.

    Args:
        model: a causal language model in eval mode; frozen and patched here.
        max_tokens: of one pass; more work than that is done in several passes.
        company: whether adapters share passes, ``fast``, or only the base model, ``exact``.
        fuse: run layers of known shape as fused halves.

    Raises:
        TrainingError: ``unsupported_model``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        max_tokens: int | None = None,
        company: Company | None = None,
        fuse: bool = True,
    ) -> None:
        self.body = Body(model, fuse)
        self.company: Company = company or ("exact" if os.environ.get(COMPANY) == "exact" else "fast")
        self.device = model.device
        self.max_tokens = max_tokens or MAX_TOKENS.get(self.device.type, 4096)
        self._banks = Banks(self.body.groups, self.device, self.body.stacks)
        self._tenants: dict[str, Tenant] = {}
        self._names = (f"graft{number}" for number in itertools.count())
        self._recompute = False

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | None = None, quantization: Quantization = "none"
    ) -> PackedEngine:
        """The base model in ``folder``; it computes in bf16 on a GPU, in fp32 on the CPU.

        Raises:
            TrainingError: ``base_unusable``, ``unsupported_model``.
        """
        return cls(load_model(folder, device or pick_device(), quantization=quantization))

    def add(self, lora: LoraSpec, seed: int) -> Adapter:
        """See ``Engine.add``."""
        if lora.dora:
            raise InvalidRequest(
                "DoRA cannot be trained in company.",
                fix="Train it alone, or use rsLoRA.",
                code="trains_alone",
                param="lora.dora",
            )
        targets = self.body.inventory.targets(lora)
        tenant = self._banks.add(next(self._names), lora, targets, seed)
        self._tenants[tenant.adapter.name] = tenant
        return tenant.adapter

    def remove(self, adapter: Adapter) -> None:
        """See ``Engine.remove``."""
        self._banks.remove(self._tenants.pop(adapter.name))

    def save_memory(self) -> None:
        """See ``Engine.save_memory``."""
        if not self._recompute:
            self._recompute = True
            self.body.recompute()

    def forward_backward(self, work: Sequence[Work]) -> list[Sums | TrainingError]:
        """See ``Engine.forward_backward``. Whatever fails in company is tried again alone."""
        outcomes: dict[int, Sums | TrainingError] = {}
        sound: list[tuple[int, Work, Tenant]] = []
        for number, item in enumerate(work):
            try:
                check(item, self.body.vocabulary)
                sound.append((number, item, self._tenants[item.adapter.name]))
            except TrainingError as error:
                outcomes[number] = error
        try:
            outcomes |= self._guarded(lambda: self._step(sound))
        except (GraftworkError, RuntimeError, ValueError, IndexError) as error:
            if len(sound) == 1:
                outcomes[sound[0][0]] = _its_own(error)
            else:
                for item in sound:
                    outcomes[item[0]] = self.forward_backward([item[1]])[0]
        return [outcomes[number] for number in range(len(work))]

    def evaluate(self, adapter: Adapter | None, rows: Rows) -> Sums:
        """See ``Engine.evaluate``."""
        found = self._guarded(lambda: [self._read(adapter, part) for part in _parts(rows, self.max_tokens)])
        losses = [answered.losses.double().sum() for answered, _ in found]
        hits = [answered.hits.sum().double() for answered, _ in found]
        if not found:
            return Sums(examples=len(rows))
        loss, correct = torch.stack((torch.stack(losses).sum(), torch.stack(hits).sum())).tolist()
        return Sums(loss, sum(row.labelled for row in rows), int(correct), len(rows))

    def scores(self, adapter: Adapter | None, rows: Rows) -> list[float]:
        """See ``Engine.scores``."""
        sums: list[float] = []
        for answered, layout in self._guarded(
            lambda: [self._read(adapter, p) for p in _parts(rows, self.max_tokens)]
        ):
            sums += _by_row(-answered.losses, layout).tolist()
        following = iter(sums)
        return [next(following) if used(row) else 0.0 for row in rows]

    def logprobs(self, adapter: Adapter | None, tokens: Sequence[int], start: int) -> list[float]:
        """See ``Engine.logprobs``."""
        row = Encoded(list(tokens), [at >= start for at in range(len(tokens))], len(tokens))
        return (-self._guarded(lambda: self._read(adapter, [row]))[0].losses).tolist()

    def describe(self) -> dict[str, str | int | float]:
        """See ``Engine.describe``."""
        precision = str(self.body.model.dtype).removeprefix("torch.")
        form = {"quantization": "nf4"} if is_packed(self.body.model) else {}
        return {**describe(self.device), "precision": precision, "engine": "packed", **form}

    @torch.no_grad()
    def _read(self, adapter: Adapter | None, rows: Rows) -> tuple[Answered, Layout]:
        """Losses of one part's labelled tokens, without dropout."""
        tenant = self._tenants[adapter.name] if adapter else None
        layout = pack([Stretch(tenant, rows)], self.device)
        try:
            hidden = self.body.run(layout)
        finally:
            self.body.now.rest()
        return answer(hidden, self.body.head.weight, layout.targets), layout

    def _step(self, works: Sequence[tuple[int, Work, Tenant]]) -> dict[int, Sums | TrainingError]:
        totals = {number: Sums() for number, _, _ in works}
        for _, item, _ in works:
            item.adapter.grad.zero_()
        together = [[work] for work in works] if self.company == "exact" else [works]
        for part in together:
            for shares in cut(part, self.max_tokens):
                for share, sums in zip(shares, self._pass(shares), strict=True):
                    totals[share.number] += sums
        return dict(totals)

    def _pass(self, shares: Sequence[Share]) -> list[Sums]:
        """Add the gradients of some rows to their adapters'; returns what the rows added up to."""
        layout = pack([share.stretch() for share in shares], self.device)
        try:
            with torch.enable_grad():
                hidden = self.body.run(layout, _noise(shares, layout, self.body.width))
            slopes, found = self._slopes(shares, layout, hidden)
            answered = answer(hidden, self.body.head.weight, layout.targets, slopes)
            torch.autograd.backward(hidden, answered.gradient)
        finally:
            self.body.now.rest()
        return _sums(shares, layout, answered, found)

    def _slopes(
        self, shares: Sequence[Share], layout: Layout, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, list[Slopes | None]]:
        """For each labelled token the derivative of its work's mean loss to its own loss, fp32 [n]."""
        slopes = torch.empty(len(layout.targets), device=self.device)
        found: list[Slopes | None] = []
        at = 0
        for share in shares:
            count = sum(row.labelled for row in share.rows)
            mine = slice(at, at + count)
            if share.work.objective is ANSWERS:
                slopes[mine] = 1.0 / share.labelled
                found.append(None)
            else:
                read = answer(hidden.detach()[mine], self.body.head.weight, layout.targets[mine])
                scores, row_of = _scores(share, -read.losses)
                made = share.work.objective.slopes(scores, share.rows, share.first)
                slopes[mine] = -made.per_row[row_of]
                found.append(made)
            at += count
        return slopes, found

    def _guarded(self, act: Callable[[], T]) -> T:
        """Out of memory, passes are made smaller, then activations are recomputed, then it is an error."""
        while True:
            try:
                return act()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self.body.now.rest()
                torch.cuda.empty_cache()
                if self.max_tokens > 256:
                    self.max_tokens //= 2
                elif not self._recompute:
                    self.save_memory()
                else:
                    raise TrainingError(
                        "The device has too little memory for one row.",
                        fix="Use a smaller max_length or rank, or a larger GPU.",
                        code="out_of_memory",
                    ) from error


def _parts(rows: Rows, max_tokens: int) -> list[Rows]:
    """Labelled rows in parts of at most ``max_tokens``."""
    parts: list[list[Encoded]] = []
    room = 0
    for row in rows:
        size = used(row)
        if size and size > room:
            parts.append([])
            room = max_tokens
        if size:
            parts[-1].append(row)
            room -= size
    return list(parts)


def _noise(shares: Sequence[Share], layout: Layout, width: int) -> torch.Tensor | None:
    found = [share.noise(width) for share in shares]
    if all(noise is None for noise in found):
        return None
    sizes = [span.tokens.stop - span.tokens.start for span in layout.spans]
    return torch.cat(
        [torch.zeros(size, width) if n is None else n for n, size in zip(found, sizes, strict=True)]
    )


def _by_row(values: torch.Tensor, layout: Layout) -> torch.Tensor:
    return values.new_zeros(len(layout.lengths)).index_add_(0, layout.row_of, values)


def _scores(share: Share, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's sum of its labelled tokens' ``values``, and each labelled token's row."""
    rows = [n for n, row in enumerate(share.rows) for _ in range(row.labelled)]
    row_of = torch.tensor(rows, device=values.device)
    return values.new_zeros(len(share.rows)).index_add_(0, row_of, values), row_of


def _sums(
    shares: Sequence[Share], layout: Layout, answered: Answered, found: Sequence[Slopes | None]
) -> list[Sums]:
    """What each share added up to, fetched from the device in one go."""
    counts = [sum(row.labelled for row in share.rows) for share in shares]
    owner = torch.repeat_interleave(torch.tensor(counts)).to(answered.losses.device)
    numbers = answered.losses.new_zeros(2, len(shares), dtype=torch.float64)
    numbers[0].index_add_(0, owner, answered.losses.double())
    numbers[1].index_add_(0, owner, answered.hits.double())
    for at, made in enumerate(found):
        if made is not None:
            numbers[0, at] = made.loss.double()
    more = [value.double() for made in found if made for value in made.metrics.values()]
    values = torch.cat([numbers.flatten(), *(value.reshape(1) for value in more)]).tolist()
    extra = iter(values[2 * len(shares) :])
    return [
        Sums(
            values[at],
            counts[at],
            int(values[len(shares) + at]),
            len(share.rows) // share.work.objective.rows_per_example,
            {name: next(extra) for name in made.metrics} if made else {},
            by_example=made is not None,
        )
        for at, (share, made) in enumerate(zip(shares, found, strict=True))
    ]


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _its_own(error: Exception) -> TrainingError:
    if isinstance(error, TrainingError):
        return error
    failure = TrainingError(f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
