"""The part of Go's ``text/template`` that our Modelfiles use, to see what Ollama will make of a conversation.

Knows text, ``range .Messages``, ``if``/``else if``/``else``/``end``, ``.System``, ``.Role``, ``.Content``,
string literals, ``eq`` and ``not``, and the trim marks ``{{-`` and ``-}}``. Anything else is an error.
Semantics: https://pkg.go.dev/text/template; the fields: Ollama's ``docs/template.md``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

_ACTION = re.compile(r"\{\{(- )?\s*(.*?)\s*( -)?\}\}", re.DOTALL)
_TERM = re.compile(r'"(?:[^"\\]|\\.)*"|\.\w+|\w+')

Message = dict[str, str]


class UnknownAction(ValueError):
    """The template uses more than this renderer knows."""


@dataclass(slots=True)
class _Text:
    text: str


@dataclass(slots=True)
class _Value:
    expression: str


@dataclass(slots=True)
class _Range:
    body: list[_Node] = field(default_factory=list)


@dataclass(slots=True)
class _If:
    branches: list[tuple[str, list[_Node]]] = field(default_factory=list)


_Node = _Text | _Value | _Range | _If


def render(template: str, messages: list[Message]) -> str:
    """The text of a conversation; what ``.System`` holds is the system messages' texts.

    Raises:
        UnknownAction: the template uses something else.
    """
    nodes, rest = _parse(_pieces(template))
    if rest:
        raise UnknownAction("an end without a beginning")
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    return _run(nodes, {"System": system}, messages)


def literal(text: str) -> str:
    """Text that a template gives back as it is."""
    return text.replace("{{", '{{ "{{" }}')


def _pieces(template: str) -> list[str | tuple[str]]:
    """Text, and actions as tuples of one; text beside a trim mark has lost its space."""
    found: list[str | tuple[str]] = []
    at, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if trim else text
        found += [text.rstrip() if match[1] else text, (match[2],)]
        at, trim = match.end(), bool(match[3])
    tail = template[at:]
    return [*found, tail.lstrip() if trim else tail]


def _parse(pieces: list[str | tuple[str]]) -> tuple[list[_Node], list[str | tuple[str]]]:
    """Nodes up to an ``else`` or ``end`` that is not ours, and what is left from there."""
    nodes: list[_Node] = []
    while pieces:
        piece, rest = pieces[0], pieces[1:]
        if isinstance(piece, str):
            nodes.append(_Text(piece))
        elif piece[0] == "end" or piece[0].startswith("else"):
            return nodes, pieces
        elif piece[0] == "range .Messages":
            body, rest = _parse(rest)
            if not rest or rest[0] != ("end",):
                raise UnknownAction("range without an end")
            nodes.append(_Range(body))
            rest = rest[1:]
        elif piece[0].startswith("if "):
            node, rest = _parse_if(piece[0].removeprefix("if "), rest)
            nodes.append(node)
        else:
            nodes.append(_Value(piece[0]))
        pieces = rest
    return nodes, []


def _parse_if(condition: str, rest: list[str | tuple[str]]) -> tuple[_If, list[str | tuple[str]]]:
    node = _If()
    while True:
        body, rest = _parse(rest)
        node.branches.append((condition, body))
        if not rest:
            raise UnknownAction("if without an end")
        mark, rest = rest[0][0], rest[1:]
        if mark == "end":
            return node, rest
        condition = mark.removeprefix("else").strip().removeprefix("if ") or '"always"'


def _run(nodes: list[_Node], scope: dict[str, str], messages: list[Message]) -> str:
    out: list[str] = []
    for node in nodes:
        match node:
            case _Text():
                out.append(node.text)
            case _Value():
                out.append(str(_evaluate(node.expression, scope)))
            case _Range():
                for message in messages:
                    inner = {"Role": message["role"], "Content": message["content"]}
                    out.append(_run(node.body, inner, messages))
            case _If():
                for condition, body in node.branches:
                    if _evaluate(condition, scope):
                        out.append(_run(body, scope, messages))
                        break
    return "".join(out)


def _evaluate(expression: str, scope: dict[str, str]) -> str | bool:
    terms = _TERM.findall(expression)
    match terms:
        case ["eq", left, right]:
            return _evaluate(left, scope) == _evaluate(right, scope)
        case ["not", term]:
            return not _evaluate(term, scope)
        case [term] if term.startswith('"'):
            return json.loads(term)
        case [term] if term.startswith(".") and term[1:] in scope:
            return scope[term[1:]]
        case _:
            raise UnknownAction(expression)
