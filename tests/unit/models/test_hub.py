"""The real hub client against a loopback hub: resolve, download, and a hub that is not there."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from graftwork.core.errors import InvalidRequest
from graftwork.models import Catalogue, pin
from graftwork.models.cache import HuggingFaceHub

pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
COMMIT = "abcdef" + "0" * 34


@pytest.fixture
def loopback_hub(make_model):
    """Address of a server that speaks as much of the Hub's API as a download needs."""
    files = {path.name: path.read_bytes() for path in make_model("hub").iterdir()} | {
        "training_args.bin": b"pickle"
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer(body=True)

        def do_HEAD(self):
            self.answer(body=False)

        def answer(self, body):
            name = self.path.split("?")[0].rsplit("/", 1)[-1]
            if "/tree/" in self.path:
                tree = [{"type": "file", "path": n, "size": len(c), "oid": n} for n, c in files.items()]
                content = json.dumps(tree).encode()
            elif self.path.startswith("/api/models/"):
                content = json.dumps(
                    {"id": "org/m", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                ).encode()
            else:
                content = files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{name}"')
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_is_downloaded_without_what_it_does_not_need(loopback_hub, tmp_path):
    hub = HuggingFaceHub(loopback_hub)
    entry = Catalogue(allow=["org/*"], cache=tmp_path / "cache", hub=hub).get("org/m")
    assert (entry.revision, entry.hidden) == (COMMIT, 64)
    names = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= names
    assert "training_args.bin" not in names


def test_a_hub_that_is_not_there_is_the_callers_error(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        hub = HuggingFaceHub(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(InvalidRequest) as caught:
            pin(Catalogue().get("Qwen/Qwen3-0.6B"), tmp_path, hub)
    assert caught.value.code == "model_unreachable"
