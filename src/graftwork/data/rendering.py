"""Rows to tokens and labels: the one place where training text is made.

Training, counting, evaluation and the embedded engine all render through ``Renderer``, so a model is asked at
serving time in the very tokens it was trained on.

Which tokens carry loss (label True):

- chat rows: the words of each assistant message whose ``weight`` is not 0, and the end-of-turn token after
  them. With ``{% generation %}`` marks in the template the marks say where the words are. Without them, the
  words begin behind what a generation prompt adds, wherever that stands in the text, if it stands there as
  often as the assistant speaks; else where the rendered messages before them plus the generation prompt end
  (that text must be a prefix of the whole, or the row is refused). They end with the first end-of-turn token;
- ``{"prompt", "completion"}``: the completion and the end-of-text token. Both parts are tokenized apart, as
  they are when the model is asked;
- ``{"text"}``: every token, and the end-of-text token.

A row longer than ``max_length`` keeps its beginning; its end is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from graftwork.core.errors import InvalidData, InvalidRequest
from graftwork.data.encoding import Encoded, Rendered, Span, assemble
from graftwork.data.messages import template_messages
from graftwork.data.rows import Message, Row, kind
from graftwork.data.template import ChatTemplate
from graftwork.data.tokenizer import TextTokenizer
from graftwork.data.turns import THINKING, Turns

_CHUNK = 256
"""Rows tokenized together: enough for the tokenizer's threads, little enough to hold."""


class Renderer:
    """Tokenizer and chat template of one base model. Safe to share between threads.

    ``variables`` are passed to the template; by default ``enable_thinking`` is false, which templates that
    can think (Qwen3) understand and others ignore: answers without reasoning are trained, and asked for, so.
    """

    def __init__(
        self, tokenizer: TextTokenizer, template: ChatTemplate | None, variables: dict[str, Any] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        ends = tuple(tokenizer.decode([eos], skip_special_tokens=False) for eos in sorted(tokenizer.eos_ids))
        scope = {**tokenizer.specials, THINKING: False, **(variables or {})}
        self._turns = Turns(template, scope, ends) if template is not None else None

    @classmethod
    def load(cls, directory: Path, variables: dict[str, Any] | None = None) -> Renderer:
        """From a model folder: ``tokenizer.json``, ``tokenizer_config.json``, ``chat_template.jinja``.

        Raises:
            InvalidRequest: a file is missing or broken.
        """
        tokenizer = TextTokenizer(directory)
        source = _template_source(directory, tokenizer.config)
        return cls(tokenizer, ChatTemplate(source) if source is not None else None, variables)

    @property
    def template_hash(self) -> str:
        """sha256 of the chat template's text; ``"none"`` for a model without one."""
        return self.template.hash if self.template else "none"

    @property
    def tokenizer_hash(self) -> str:
        """sha256 of ``tokenizer.json``."""
        return self.tokenizer.hash

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a turn or the text: generation stops at any of them."""
        return self.tokenizer.eos_ids

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text``; no special tokens are added."""
        return self.tokenizer.encode(text)

    def tokenize_raw(self, text: str) -> list[int]:
        """Token ids of a raw (template-less) prompt: with the tokenizer's BOS, where it has one."""
        return [*self.tokenizer.prefix, *self.tokenizer.encode(text)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        return self.tokenizer.decode(list(ids), skip_special_tokens)

    def render_prompt(
        self,
        messages: list[Message],
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The text of a conversation, by default up to where the assistant begins to speak.

        Raises:
            InvalidRequest: the model has no chat template.
            InvalidData: the template refuses the messages (``template_error``).
        """
        return self._chat().text(template_messages(messages), tools, add_generation_prompt)

    def render(self, row: Row) -> Rendered:
        """A canonical row as text with its loss spans.

        Raises:
            InvalidRequest: a chat row, and the model has no chat template.
            InvalidData: the template refuses the row or does not build it turn by turn; a preference row.
        """
        match kind(row):
            case "chat":
                return self._chat().render(row)
            case "completion":
                whole = (Span(0, len(row["completion"])),)
                return Rendered(((row["prompt"], ()), (row["completion"], whole)), raw=True)
            case "text":
                return Rendered(((row["text"], (Span(0, len(row["text"])),)),), raw=True)
            case "preference" | "feedback":
                raise InvalidData(
                    "A preference row is no conversation to be learnt as it stands.",
                    fix="Render what graftwork.data.lessons makes of it.",
                    code="method_mismatch",
                )

    def encode(self, row: Row, max_length: int | None = None) -> Encoded:
        """A canonical row as tokens and labels, cut at ``max_length`` tokens; raises as ``render``."""
        rendered = self.render(row)
        return assemble(rendered, self.tokenizer.encode_many(rendered.texts), self.tokenizer, max_length)

    def encode_all(
        self, rows: Iterable[Row], max_length: int | None = None
    ) -> Iterator[Encoded | InvalidData]:
        """Rows in order, tokenized in batches; a row that cannot be rendered comes as its error."""
        source = iter(rows)
        while chunk := list(islice(source, _CHUNK)):
            rendered = [self._try(row) for row in chunk]
            texts = [text for item in rendered if isinstance(item, Rendered) for text in item.texts]
            encodings = iter(self.tokenizer.encode_many(texts))
            for item in rendered:
                if isinstance(item, Rendered):
                    parts = list(islice(encodings, len(item.parts)))
                    yield assemble(item, parts, self.tokenizer, max_length)
                else:
                    yield item

    def pieces(self, encoded: Encoded) -> list[tuple[str, bool]]:
        """The row's text cut where the label changes: (text, carries loss) in order, for people."""
        found: list[tuple[str, bool]] = []
        start = 0
        for index in range(1, len(encoded.tokens) + 1):
            if index == len(encoded.tokens) or encoded.labels[index] != encoded.labels[start]:
                text = self.decode(encoded.tokens[start:index], skip_special_tokens=False)
                found.append((text, encoded.labels[start]))
                start = index
        return found

    def _try(self, row: Row) -> Rendered | InvalidData:
        try:
            return self.render(row)
        except InvalidData as error:
            return error

    def _chat(self) -> Turns:
        if self._turns is None:
            raise InvalidRequest(
                "The base model has no chat template.",
                fix="Use a base model with a chat template, or train on prompt/completion rows.",
                code="chat_template_missing",
            )
        return self._turns


def _template_source(directory: Path, config: dict[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None
