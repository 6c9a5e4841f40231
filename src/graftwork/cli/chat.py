"""``graft chat``: ask a model, once or in a conversation."""

from __future__ import annotations

import sys
from typing import Any

from graftwork.cli.connection import Server, connect
from graftwork.cli.output import put, put_json, say


def chat(
    model: str,
    message: str | None = None,
    /,
    *,
    system: str | None = None,
    max_tokens: int = 256,
    temperature: float = 0.0,
    seed: int | None = None,
    json: bool = False,
) -> None:
    """Ask a base model, an adapter (`support`), a version (`support@3`) or an `ft:` name.

    Without a message it reads one from a pipe, or holds a conversation on a terminal (Ctrl-D ends it).

    Parameters
    ----------
    model:
        Whom to ask.
    message:
        What to ask.
    system:
        A system message to begin with.
    """
    server = connect()
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    body: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
    if seed is not None:
        body["seed"] = seed
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip()
    if message is None:
        _converse(server, body, messages)
        return
    messages.append({"role": "user", "content": message})
    if json:
        put_json(server.post("/v1/chat/completions", {**body, "messages": messages}))
        return
    _answer(server, body, messages)


def _converse(server: Server, body: dict[str, Any], messages: list[dict[str, str]]) -> None:
    say(f"Talking to {body['model']}. Ctrl-D ends it.")
    while True:
        try:
            text = input("> ")
        except EOFError:
            return
        if text.strip():
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": _answer(server, body, messages)})


def _answer(server: Server, body: dict[str, Any], messages: list[dict[str, str]]) -> str:
    """Stream one answer to stdout; its text."""
    pieces: list[str] = []
    for chunk in server.stream("/v1/chat/completions", {**body, "messages": messages, "stream": True}):
        for choice in chunk.get("choices", []):
            piece = choice["delta"].get("content") or ""
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    put("")
    return "".join(pieces)
