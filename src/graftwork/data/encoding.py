"""Rendered text to token ids and loss labels."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Encoding

from graftwork.data.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as tokens.

    Attributes:
        tokens: token ids, at most ``max_length`` of them.
        labels: ``labels[i]`` is True when token ``i`` carries loss (is to be predicted from those before it).
        length: number of tokens before the cut.
    """

    tokens: list[int]
    labels: list[bool]
    length: int

    @property
    def labelled(self) -> int:
        """Number of tokens that carry loss; the first token never can, nothing comes before it."""
        return sum(self.labels[1:])


def windows(encoded: Encoded, size: int) -> list[Encoded]:
    """A long row as several of at most ``size`` tokens, nothing lost: each begins with the last token of the
    one before, so that every labelled token is predicted once."""
    step = size - 1
    starts = range(0, max(len(encoded.tokens) - 1, 1), step)
    cuts = [(encoded.tokens[at : at + size], encoded.labels[at : at + size]) for at in starts]
    return [Encoded(tokens, labels, len(tokens)) for tokens, labels in cuts]


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``[start, end)`` of a text that carry loss.

    ``open`` spans end earlier, with their first end-of-turn token, if there is one.
    """

    start: int
    end: int
    open: bool = False


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as text: parts that are tokenized apart, each with its loss spans."""

    parts: tuple[tuple[str, tuple[Span, ...]], ...]
    raw: bool
    """Raw text takes the tokenizer's BOS and ends with the end-of-text token; a template writes its own."""

    @property
    def texts(self) -> list[str]:
        """The parts' texts."""
        return [text for text, _ in self.parts]


def assemble(
    rendered: Rendered, encodings: list[Encoding], tokenizer: TextTokenizer, max_length: int | None
) -> Encoded:
    """Tokens and labels of a row from the encodings of its parts, cut at ``max_length``."""
    tokens: list[int] = list(tokenizer.prefix) if rendered.raw else []
    labels = [False] * len(tokens)
    for (_, spans), encoding in zip(rendered.parts, encodings, strict=True):
        marked = [False] * len(encoding.ids)
        for span in spans:
            first, last = _tokens_of(span, encoding, tokenizer.eos_ids)
            marked[first:last] = [True] * (last - first)
        tokens += encoding.ids
        labels += marked
    if rendered.raw and tokenizer.eos_id is not None:
        tokens.append(tokenizer.eos_id)
        labels.append(True)
    return Encoded(tokens[:max_length], labels[:max_length], len(tokens))


def _tokens_of(span: Span, encoding: Encoding, eos_ids: frozenset[int]) -> tuple[int, int]:
    """Indices ``[first, last)`` of the tokens that overlap the span, with the end-of-turn token after it."""
    ids = encoding.ids
    first = _token_at(encoding, span.start)
    if span.end <= span.start:
        return first, first
    last = _token_at(encoding, span.end)
    if last < len(ids) and encoding.offsets[last][0] < span.end:
        last += 1  # a token across the border belongs to the words
    if span.open:
        ends = (index + 1 for index in range(first, last) if ids[index] in eos_ids)
        return first, next(ends, last)
    if first < last < len(ids) and ids[last] in eos_ids and ids[last - 1] not in eos_ids:
        last += 1  # the marks left the end of the turn out; without it the model would not learn to stop
    return first, last


def _token_at(encoding: Encoding, position: int) -> int:
    """Index of the token that holds character ``position``, or else of the first one behind it."""
    index = encoding.char_to_token(position)
    if index is not None:
        return index
    return next((i for i, (_, end) in enumerate(encoding.offsets) if end > position), len(encoding.ids))
