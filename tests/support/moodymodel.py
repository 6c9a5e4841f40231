"""A loopback server of OpenAI's chat API that also says no: busy, broken, cut off, half a body, nonsense."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], str]


def fine(text: str, finish: str = "stop", tokens: int = 10) -> tuple[int, dict[str, str], bytes]:
    """A whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 100, "completion_tokens": tokens, "total_tokens": 100 + tokens}
    body = {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}
    return 200, {}, json.dumps(body).encode()


def no(status: int, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """A refusal."""
    body = {"error": {"message": f"no: {status}", "type": "x", "code": None, "param": None}}
    return status, headers, json.dumps(body).encode()


DROP = (0, {}, b"")
"""The connection is closed without an answer."""


class MoodyModel:
    """Answers with ``moods`` first, one a request, then with ``answer``."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.moods: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.before: Callable[[int], None] = lambda number: None
        lock = threading.Lock()
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(size))
                with lock:
                    model.asked.append(body)
                    model.keys.append(self.headers.get("authorization"))
                    number = len(model.asked)
                    mood = model.moods.pop(0) if model.moods else None
                model.before(number)
                status, headers, data = mood or fine(model.answer(body))
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> MoodyModel:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
