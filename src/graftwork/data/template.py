"""Chat templates in a sandbox that renders what transformers' ``apply_chat_template`` renders.

The environment follows transformers 5 (``utils/chat_template_utils.py``, Apache-2.0): an immutable sandbox,
``trim_blocks`` and ``lstrip_blocks``, loop controls, ``raise_exception``, ``strftime_now``, a ``tojson`` that
does not escape HTML, and the ``{% generation %}`` block, which marks the assistant's words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment

from graftwork.core.errors import InvalidData, InvalidRequest

_TRACKER = "graftwork_spans"

TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
)
"""What code inside a template can raise: Jinja's own errors, and Python's from its expressions."""


class Spans:
    """Collects, while a template renders, where the ``{% generation %}`` blocks lie in the text."""

    def __init__(self) -> None:
        self._length = 0
        self._blocks: list[str] = []
        self.spans: list[tuple[int, int]] = []

    def add(self, block: str) -> None:
        """Append a rendered block."""
        self._blocks.append(block)
        self._length += len(block)

    def mark(self, text: str) -> None:
        """The next ``len(text)`` characters are the assistant's."""
        self.spans.append((self._length, self._length + len(text)))

    @property
    def text(self) -> str:
        """Everything rendered so far."""
        return "".join(self._blocks)


class _Generation(jinja2.ext.Extension):
    """``{% generation %}…{% endgeneration %}``: renders its body and tells the tracker where it lies."""

    tags = {"generation"}  # noqa: RUF012 - the name and type jinja2 prescribes

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Compile the block to a call of ``_mark``."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    @jinja2.pass_context
    def _mark(self, context: jinja2.runtime.Context, caller: Callable[[], str]) -> str:
        text = caller()
        tracker = context.get(_TRACKER)
        if isinstance(tracker, Spans):
            tracker.mark(text)
        return text


class _Namespace(jinja2.utils.Namespace):
    """``namespace()`` without underscored names: a way out of older sandboxes.

    Attribute access on an instance reads the template's names, so nothing here may go through ``self``, and
    templates may set ``self`` too.
    """

    def __init__(*args: Any, **named: Any) -> None:
        attributes = dict(*args[1:], **named)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace may not hold {name!r}")


class _Dict:
    """``dict(…)`` as a function: templates get no hold of the type itself."""

    def __call__(self, *items: Any, **named: Any) -> dict[Any, Any]:
        return dict(*items, **named)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        """As ``dict.fromkeys``."""
        return dict.fromkeys(keys, value)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _Namespace
    environment.globals["dict"] = _Dict()
    return environment


class ChatTemplate:
    """A compiled chat template.

    Attributes:
        source: the template's text.
        hash: sha256 of the text.
        marks: whether it has ``{% generation %}`` blocks.
    """

    def __init__(self, source: str) -> None:
        """Compile ``source``.

        Raises:
            InvalidRequest: the text is not a Jinja template.
        """
        self.source = source
        self.hash = hashlib.sha256(source.encode()).hexdigest()
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            self.marks = any(
                node.identifier.endswith("._Generation")
                for node in environment.parse(source).find_all(jinja2.nodes.ExtensionAttribute)
            )
        except jinja2.TemplateSyntaxError as error:
            raise InvalidRequest(
                f"The chat template does not compile: {error.message} (line {error.lineno}).",
                fix="Correct chat_template.jinja in the base model's folder.",
                code="chat_template_invalid",
            ) from error

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
        variables: dict[str, Any],
    ) -> Spans:
        """The text of a conversation and the character spans of its ``{% generation %}`` blocks.

        Raises:
            InvalidData: the template refuses these messages (``template_error``).
        """
        spans = Spans()
        scope: dict[str, Any] = {**variables, _TRACKER: spans}
        try:
            for block in self._template.generate(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **scope,
            ):
                spans.add(block)
        except TEMPLATE_FAULTS as error:
            raise InvalidData(
                f"The base model's chat template refuses these messages: {error}",
                fix="Write the conversation as the template expects it: mind roles and their order.",
                code="template_error",
            ) from error
        return spans
