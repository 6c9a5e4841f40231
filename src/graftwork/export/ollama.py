"""An Ollama Modelfile whose chat template says what the original says, or a reason why there is none.

Ollama does not run Jinja: it has Go templates. Ours is derived from the original by rendering it: what stands
before and after each role's words is found out from a few conversations. Then both render many more, and one
character of difference refuses the export.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graftwork.core.errors import InvalidData, InvalidRequest
from graftwork.data import Renderer
from graftwork.export.gotemplate import Message, literal, render

_S, _U, _A = "\ue001", "\ue002", "\ue003"
"""Words that no template holds."""
_ALIKE = 3
"""Characters that two turns' beginnings must share to be taken for such."""


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What a chat template puts around the words of each role."""

    start_system: str
    """Before everything, where a system message comes first."""
    start: str
    """Before everything, where none does."""
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    asks: str
    """After the last message: where the assistant is to speak."""

    def go(self) -> str:
        """As a template of Ollama's."""
        start = literal(self.start)
        if self.start_system != self.start:
            start = f"{{{{ if .System }}}}{literal(self.start_system)}{{{{ else }}}}{start}{{{{ end }}}}"
        parts = [start, "{{ range .Messages }}"]
        for word, (role, around) in zip(
            ("if", "else if", "else if"),
            (("system", self.system), ("user", self.user), ("assistant", self.assistant)),
            strict=True,
        ):
            head, tail = (literal(text) for text in around)
            parts.append(f'{{{{ {word} eq .Role "{role}" }}}}{head}{{{{ .Content }}}}{tail}')
        return "".join([*parts, "{{ end }}{{ end }}", literal(self.asks)])


def modelfile(base: Path, model: str, adapter: str | None = None) -> str:
    """The text of a Modelfile.

    Args:
        base: folder of the base model: its template, its end-of-turn tokens.
        model: path of the GGUF, relative to the Modelfile, or a model's name.
        adapter: path of a LoRA-GGUF to be laid over it.

    Raises:
        InvalidRequest: the chat template cannot be said in Go's (``template_unsupported``).
    """
    renderer = Renderer.load(base)
    lines = [f"FROM {model}"]
    if adapter is not None:
        lines.append(f"ADAPTER {adapter}")
    if renderer.template is not None:
        lines.append(f'TEMPLATE """{go_template(renderer)}"""')
    ends = (renderer.decode([index], skip_special_tokens=False) for index in sorted(renderer.eos_ids))
    lines += [f'PARAMETER stop "{end}"' for end in ends]
    return "\n".join(lines) + "\n"


def go_template(renderer: Renderer) -> str:
    """The chat template as one of Ollama's, compared on every conversation of ``samples``.

    Raises:
        InvalidRequest: there is none that says the same (``template_unsupported``).
    """
    try:
        template = _wrapping(renderer).go()
    except InvalidData as error:
        raise _unsupported(f"it refuses a plain conversation ({error.message})") from error
    if '"""' in template:
        raise _unsupported("it holds three quotation marks, which end a Modelfile's text")
    for messages in samples():
        try:
            original = _said(renderer, messages)
        except InvalidData:
            continue  # the original refuses it: nothing to say alike
        if (ours := render(template, messages)) != original:
            at = len(_common_start(ours, original))
            raise _unsupported(
                f"after {original[max(0, at - 40) : at]!r} it says {original[at : at + 40]!r}, "
                f"a template that only wraps messages {ours[at : at + 40]!r}"
            )
    return template


def samples() -> list[list[Message]]:
    """Conversations as they come: with and without system words, one and several turns, odd characters.

    None has space at its ends: many templates cut it, and Ollama's cannot.
    """
    words = ["Hi", "Where is my order?\n\nIt is late.", '{"a": [1, 2]}', "Grüße 你好 🙂", "{{ .System }}"]
    found: list[list[Message]] = []
    for system in (None, "Be brief.", "Two\nlines."):
        first = [] if system is None else [{"role": "system", "content": system}]
        for turns in (1, 2, 3):
            for shift in range(len(words)):
                talk = list(first)
                for turn in range(turns):
                    talk.append({"role": "user", "content": words[(shift + 2 * turn) % len(words)]})
                    if turn + 1 < turns:
                        talk.append(
                            {"role": "assistant", "content": words[(shift + 2 * turn + 1) % len(words)]}
                        )
                found.append(talk)
    return found


def _wrapping(renderer: Renderer) -> Wrapping:
    system, user, assistant = (
        {"role": role, "content": content}
        for role, content in (("system", _S), ("user", _U), ("assistant", _A))
    )
    start_user, user_end = _between(_said(renderer, [user]), _U)
    start_system, system_user, _ = _between(_said(renderer, [system, user]), _S, _U)
    _, user_assistant, assistant_user, _ = _between(_said(renderer, [user, assistant, user]), _U, _A, _U)
    head = _common_end(assistant_user, system_user, start_user)
    tail = _common_start(user_assistant, user_end)
    # What asks for an answer is said after the last message alone, unless every answer begins with it.
    split = len(tail) - len(_opening(tail, head))
    tail, rest = tail[:split], tail[split:]
    return Wrapping(
        start_system="",
        start=start_user.removesuffix(head),
        system=(start_system, system_user.removesuffix(head)),
        user=(head, tail),
        assistant=(rest + user_assistant.removeprefix(tail + rest), assistant_user.removesuffix(head)),
        asks=rest + user_end.removeprefix(tail + rest),
    )


def _opening(tail: str, head: str) -> str:
    """The end of ``tail`` that begins as a user's turn does, as far as any: there the next turn begins."""
    alike = [len(_common_start(tail[at:], head)) for at in range(len(tail))]
    best = max(alike, default=0)
    return tail[alike.index(best) :] if best >= _ALIKE else ""


def _said(renderer: Renderer, messages: list[Message]) -> str:
    """What the original says, without the BOS that the tokenizer puts there in GGUF."""
    text = renderer.render_prompt(list(messages))  # type: ignore[arg-type]
    prefix = renderer.decode(renderer.tokenizer.prefix, skip_special_tokens=False)
    return text.removeprefix(prefix)


def _between(text: str, *marks: str) -> list[str]:
    """The text around the marks, in their order."""
    found: list[str] = []
    for mark in marks:
        before, middle, text = text.partition(mark)
        if not middle:
            raise _unsupported("it leaves out what somebody said")
        found.append(before)
    return [*found, text]


def _common_start(*texts: str) -> str:
    shortest = min(texts, key=len)
    length = next((n for n, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), None)
    return shortest[:length]


def _common_end(*texts: str) -> str:
    return _common_start(*(text[::-1] for text in texts))[::-1]


def _unsupported(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The base model's chat template cannot be said in Ollama's: {why}.",
        fix="Export as gguf, which carries the original template for llama.cpp and LM Studio.",
        code="template_unsupported",
        param="format",
    )
