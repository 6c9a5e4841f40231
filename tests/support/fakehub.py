"""A loopback stand-in for the Hugging Face Hub: its HTTP API for making a repository and committing to it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_right"


@dataclass
class Repository:
    """One repository: its visibility, and the files of its only branch."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0


class FakeHub:
    """A Hub on a loopback port; a context manager.

    Attributes:
        repositories: by name.
        seen: method and path of every request.
        fail: status to answer commits with; 0 takes them.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.fail = 0
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        length = self.headers.get("content-length")
        if length is not None:
            return self.rfile.read(int(length))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _allowed(self) -> bool:
        if self.headers.get("authorization") == f"Bearer {TOKEN}":
            return True
        self._answer({"error": "Invalid username or password."}, 401)
        return False

    def do_PUT(self) -> None:
        """An LFS object."""
        data = self._body()
        self.hub.seen.append(f"PUT {self.path}")
        sha = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == sha
        self.hub.blobs[sha] = data
        self._answer({})

    def do_GET(self) -> None:
        """A model's facts."""
        path = urlsplit(self.path).path
        self.hub.seen.append(f"GET {path}")
        name = path.removeprefix("/api/models/").split("/revision")[0]
        if name in self.hub.repositories:
            self._answer({"id": name, "sha": "0" * 40, "siblings": []})
        else:
            self._answer({"error": "Repository not found"}, 404)

    def do_POST(self) -> None:
        """Create, preupload, LFS batch or commit."""
        body, path = self._body(), urlsplit(self.path).path
        self.hub.seen.append(f"POST {path}")
        if not self._allowed():
            return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            # Text goes into the commit, weights through LFS: by the names the real Hub goes by.
            self._answer({"files": [{**_mode(f["path"]), "path": f["path"]} for f in files]})
        elif "/commit/" in path:
            self._commit(path.removeprefix("/api/models/").partition("/commit/")[0], body)
        else:
            self._answer({"error": f"nothing at {path}"}, 404)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if name.startswith("other/"):
            return self._answer({"error": "You don't have the rights"}, 403)
        if name in self.hub.repositories:
            return self._answer({"error": "You already created this model repo", "url": self._url(name)}, 409)
        self.hub.repositories[name] = Repository(
            private=asked.get("visibility") == "private" or asked.get("private") is True
        )
        return self._answer({"url": self._url(name), "name": name})

    def _batch(self, asked: dict[str, Any]) -> None:
        def entry(item: dict[str, Any]) -> dict[str, Any]:
            upload = {"href": f"{self.hub.url}/lfs/{item['oid']}", "header": {}}
            return {**item, "authenticated": True, "actions": {"upload": upload}}

        self._answer({"transfer": "basic", "objects": [entry(item) for item in asked["objects"]]})

    def _commit(self, name: str, body: bytes) -> None:
        if self.hub.fail:
            return self._answer({"error": "no"}, self.hub.fail)
        repository = self.hub.repositories[name]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.blobs[value["oid"]]
        repository.commits += 1
        answer = {"success": True, "commitOid": "1" * 40, "commitUrl": f"{self._url(name)}/commit/{'1' * 40}"}
        return self._answer({**answer, "hookOutput": ""})

    def _url(self, name: str) -> str:
        return f"{self.hub.url}/{name}"


def _mode(path: str) -> dict[str, Any]:
    large = path.endswith((".safetensors", ".gguf"))
    return {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}
