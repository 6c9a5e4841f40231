"""One iteration of the engine: schedule, compute, draw, tell. Everything here runs on the compute thread."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch

from graftwork.core.errors import PlatformError
from graftwork.serving.embedded import sampler
from graftwork.serving.embedded.batch import Segment
from graftwork.serving.embedded.kv import KVCache
from graftwork.serving.embedded.model import BaseModel
from graftwork.serving.embedded.scheduler import Limits, Scheduler, Sequence
from graftwork.serving.wire.backend import Scored, Step

_log = logging.getLogger(__name__)

_LOGIT_ROWS = 128
"""Prompt positions scored at a time: bounds the logits in memory to this many rows of the vocabulary."""


@dataclass(slots=True)
class Totals:
    """Counters since the start."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    by_model: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A sequence whose newest position has been computed: its next token can be drawn."""

    sequence: Sequence
    at: int
    """Index of that position in the batch's row."""


class Loop:
    """Scheduler, cache and model, one iteration at a time."""

    def __init__(self, model: BaseModel, limits: Limits, ends: frozenset[int]) -> None:
        self._model = model
        self._ends = ends
        self.scheduler = Scheduler(limits, KVCache(model.kv, model.states))
        self.totals = Totals()

    @torch.inference_mode()
    def iterate(self) -> list[tuple[Sequence, Step]]:
        """Advance every scheduled sequence; returns the news, at most one for each sequence.

        A failure of torch ends the running sequences with an error; those that wait come next.
        """
        self.scheduler.drop_cancelled()
        for sequence in self.scheduler.admit():
            self.totals.prompt_tokens += 0 if sequence.returns else sequence.prompt
        try:
            plan = self.scheduler.plan()
            if not plan:
                return []
            segments = [segment for segment, _ in plan]
            sequences = [sequence for _, sequence in plan]
            hidden = self._model.compute(segments, [s.adapter for s in sequences], self.scheduler.states)
            return self._tell(segments, sequences, hidden)
        except RuntimeError as error:  # torch's: out of memory, a kernel that failed
            _log.exception("an iteration failed")
            why = f"The engine failed: {error}"
            return [(s, self._fail(s, "engine_error", why)) for s in list(self.scheduler.running)]

    def _tell(
        self, segments: Rows[Segment], sequences: Rows[Sequence], hidden: torch.Tensor
    ) -> list[tuple[Sequence, Step]]:
        news: list[tuple[Sequence, Step]] = []
        ready: list[_Ready] = []
        end = 0
        for segment, sequence in zip(segments, sequences, strict=True):
            start, end = end, end + len(segment.tokens)
            scoring = sequence.sampling.prompt_logprobs and not sequence.generated
            if scoring and not self._score_prompt(sequence, hidden[start:end]):
                news.append((sequence, self._not_finite(sequence)))
                continue
            if sequence.computed < len(sequence.tokens):
                continue
            if sequence.sampling.max_tokens == 0:
                self.scheduler.finish(sequence)
                news.append((sequence, Step(prompt=tuple(sequence.scored), finish="length")))
            else:
                ready.append(_Ready(sequence, end - 1))
        return news + self._next_tokens(ready, hidden)

    def _score_prompt(self, sequence: Sequence, hidden: torch.Tensor) -> bool:
        """Append the scores of the tokens after those of this chunk, as far as they are the prompt's.

        False when they are not finite.
        """
        if not sequence.scored:
            sequence.scored.append(Scored(sequence.tokens[0]))
        first = len(sequence.scored)
        targets = sequence.tokens[first : min(first + len(hidden), sequence.prompt)]
        top = sequence.sampling.top_logprobs or 0
        for start in range(0, len(targets), _LOGIT_ROWS):
            part = targets[start : start + _LOGIT_ROWS]
            logits = self._model.logits(hidden[start : start + len(part)])
            if not all(sampler.finite(logits)):
                return False
            sequence.scored += sampler.score(logits, part, [top] * len(part))
        return True

    def _next_tokens(self, ready: list[_Ready], hidden: torch.Tensor) -> list[tuple[Sequence, Step]]:
        if not ready:
            return []
        rows = torch.tensor([r.at for r in ready], device=hidden.device)
        logits = self._model.logits(hidden.index_select(0, rows))
        sound = sampler.finite(logits)
        sequences = [r.sequence for r in ready]
        tokens = sampler.draw(
            logits.nan_to_num(), [s.sampling for s in sequences], [s.chance for s in sequences]
        )
        scored = self._scored(logits, sequences, tokens)
        return [
            (sequence, self._advance(sequence, one) if ok else self._not_finite(sequence))
            for sequence, one, ok in zip(sequences, scored, sound, strict=True)
        ]

    def _scored(self, logits: torch.Tensor, sequences: list[Sequence], tokens: list[int]) -> list[Scored]:
        tops = [s.sampling.top_logprobs for s in sequences]
        if all(top is None for top in tops):
            return [Scored(token) for token in tokens]
        return sampler.score(logits, tokens, [top or 0 for top in tops])

    def _advance(self, sequence: Sequence, token: Scored) -> Step:
        first = sequence.generated == 0
        sequence.tokens.append(token.id)
        self.totals.generated_tokens += 1
        by_model = self.totals.by_model
        by_model[sequence.model] = by_model.get(sequence.model, 0) + 1
        ended = token.id in self._ends and not sequence.sampling.ignore_eos
        full = sequence.generated >= sequence.sampling.max_tokens
        if ended or full:
            self.scheduler.finish(sequence)
        return Step(
            tokens=() if ended else (token,),
            prompt=tuple(sequence.scored) if first else (),
            generated=1,
            finish="stop" if ended else "length" if full else None,
        )

    def _not_finite(self, sequence: Sequence) -> Step:
        return self._fail(
            sequence, "not_finite", f"The model {sequence.model!r} computed values that are not finite."
        )

    def _fail(self, sequence: Sequence, code: str, message: str) -> Step:
        if sequence in self.scheduler.running:
            self.scheduler.finish(sequence)
        return Step(error=PlatformError(message, fix="Other requests are not affected.", code=code))
