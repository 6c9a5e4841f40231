"""Where the assistant speaks in the text a chat template makes of a conversation."""

from __future__ import annotations

import re
from typing import Any

from graftwork.core.errors import InvalidData
from graftwork.data.encoding import Rendered, Span
from graftwork.data.messages import template_messages
from graftwork.data.rows import Message, Row
from graftwork.data.template import ChatTemplate

THINKING = "enable_thinking"
"""The template variable with which Qwen3 and its like switch reasoning on and off."""


class Turns:
    """A chat template with its variables and the texts that end a turn."""

    def __init__(self, template: ChatTemplate, variables: dict[str, Any], ends: tuple[str, ...]) -> None:
        self.template = template
        self._ends = ends
        self._variables = variables
        plain = {key: value for key, value in variables.items() if key != THINKING}
        self._tries = (variables, plain) if THINKING in template.source else (variables,)

    def text(self, messages: list[Message], tools: list[dict[str, Any]] | None, prompt: bool) -> str:
        """The text of messages (as ``template_messages`` makes them), with or without a generation prompt."""
        return self.template.render(messages, tools or None, prompt, self._variables).text

    def render(self, row: Row) -> Rendered:
        """A chat row as text with its loss spans.

        Raises:
            InvalidData: the template refuses the row (``template_error``), or does not build its text turn by
                turn (``template_not_prefix``).
        """
        messages: list[Message] = row["messages"]
        shown = template_messages(messages)
        tools = row.get("tools") or None
        whole = self.template.render(shown, tools, False, self._variables)
        said = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        heavy = [messages[index].get("weight") != 0 for index in said]
        marked = [Span(start, end) for start, end in whole.spans]
        if self.template.marks and all(heavy):
            return Rendered(((whole.text, tuple(marked)),), raw=False)
        if not self.template.marks or len(marked) != len(said):  # whose mark is whose is not clear
            marked = self._by_opening(shown, tools, whole.text, len(said)) or self._by_prefix(
                shown, tools, whole.text, said
            )
        spans = tuple(span for span, carries in zip(marked, heavy, strict=True) if carries)
        return Rendered(((whole.text, spans),), raw=False)

    def _by_opening(
        self, shown: list[Message], tools: list[dict[str, Any]] | None, whole: str, turns: int
    ) -> list[Span] | None:
        """Spans from each opening of an assistant's turn to its end; None where openings are not clear.

        The opening is what a generation prompt adds. A template that rewrites earlier turns when later ones
        follow (Qwen3 drops their reasoning) still opens each as it does in the prompt. As many openings as
        the assistant has turns, no more: text that looks like one is not believed.
        """
        openings: list[str] = []
        for variables in self._tries:
            prompt = self.template.render(shown, tools, True, variables).text
            if not prompt.startswith(whole) or len(prompt) == len(whole):
                return None
            openings.append(prompt[len(whole) :])
        shortest = min(openings, key=len)
        starts = [place.start() for place in re.finditer(re.escape(shortest), whole)]
        if len(starts) != turns:
            return None
        spans: list[Span] = []
        for start, limit in zip(starts, [*starts[1:], len(whole)], strict=True):
            words = start + max(len(opening) for opening in openings if whole.startswith(opening, start))
            if not any(end in whole[words:limit] for end in self._ends):
                return None
            spans.append(Span(words, limit, open=True))
        return spans

    def _by_prefix(
        self, shown: list[Message], tools: list[dict[str, Any]] | None, whole: str, said: list[int]
    ) -> list[Span]:
        starts = [self._start(shown, index, tools, whole) for index in said]
        limits = [*starts[1:], len(whole)]
        spans: list[Span] = []
        for index, start, limit in zip(said, starts, limits, strict=True):
            upto = self.text(shown[: index + 1], tools, prompt=False)
            if whole.startswith(upto) and len(upto) >= start:
                spans.append(Span(start, len(upto), open=True))
            elif any(end in whole[start:limit] for end in self._ends):
                spans.append(Span(start, limit, open=True))
            else:
                raise _not_prefix(index)
        return spans

    def _start(self, shown: list[Message], index: int, tools: list[dict[str, Any]] | None, whole: str) -> int:
        """Where the words of message ``index`` begin: after the first generation prompt that fits.

        A template that thinks writes an empty thought before the last answer and none before earlier ones;
        the prompt the model is asked with (tried first) holds that empty thought, the plain one does not.
        """
        for variables in self._tries:
            prompt = self.template.render(shown[:index], tools, True, variables).text
            if whole.startswith(prompt):
                return len(prompt)
        raise _not_prefix(index)


def _not_prefix(index: int) -> InvalidData:
    return InvalidData(
        f"The chat template does not build the conversation turn by turn: the text around messages[{index}] "
        "changes when later messages follow.",
        fix="Give each row one assistant message, at its end, or add {% generation %} marks to the template.",
        code="template_not_prefix",
        param=f"messages[{index}]",
    )
