"""Kept requests from the command line, against a loopback server that answers as the API does."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from graftwork.cli import main as entry
from graftwork.cli.kept import moment
from graftwork.core.errors import InvalidRequest

KEPT = {"mode": "all", "days": 30, "redact": True, "requests": 3, "bytes": 2_000_000}


@pytest.fixture
def api(monkeypatch, tmp_path):
    """A server that remembers what it was asked; ``answers`` may be changed."""
    seen: list[tuple[str, str, object]] = []
    answers = {
        ("GET", "/api/kept"): KEPT,
        ("PUT", "/api/kept"): KEPT,
        ("DELETE", "/api/kept"): {"deleted": 3},
        ("POST", "/api/datasets/from-logs"): {
            "requests": 3,
            "rows": 2,
            "duplicates": 1,
            "skipped": {"answer_cut_off": 1},
            "file": {"id": "file-1"},
        },
    }

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            size = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            path, _, query = self.path.partition("?")
            seen.append((self.command, path, body if body is not None else query))
            raw = b"{}\n" if path.endswith("/content") else None
            data = raw or json.dumps(answers[self.command, path]).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("GRAFTWORK_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GRAFTWORK_API_KEY", "gw_x")
    monkeypatch.chdir(tmp_path)
    yield seen, answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def graft(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            entry.main(list(arguments))
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def test_opting_in_says_what_is_kept(graft, api):
    seen, _ = api
    assert graft("dataset", "keep")[:2] == (0, "all\n")
    code, out, err = graft("dataset", "keep", "all", "--days", "7", "--no-redact")
    assert (code, out) == (0, "all\n") and "3 requests (2.0 MB)" in err
    assert seen == [
        ("GET", "/api/kept", ""),
        ("PUT", "/api/kept", {"mode": "all", "days": 7, "redact": False}),
    ]
    assert graft("dataset", "keep", "everything")[0] == 2


def test_a_data_set_is_written_once(graft, api, tmp_path):
    seen, answers = api
    code, out, err = graft("dataset", "from-logs", "--model", "support", "--since", "7d", "-o", "new.jsonl")
    assert (code, out) == (0, "new.jsonl\n") and "1 answer_cut_off" in err
    assert (tmp_path / "new.jsonl").read_bytes() == b"{}\n"
    body = seen[0][2]
    assert body["model"] == "support" and abs(time.time() - 7 * 86_400 - body["since"]) < 60
    assert graft("dataset", "from-logs", "-o", "new.jsonl")[0] == 5
    answers["POST", "/api/datasets/from-logs"] = {
        "requests": 0, "rows": 0, "duplicates": 0, "skipped": {}, "file": None,
    }  # fmt: skip
    code, _, err = graft("dataset", "from-logs", "-o", "none.jsonl")
    assert code == 2 and "nothing_kept" in err and not (tmp_path / "none.jsonl").exists()


def test_everything_is_forgotten_only_when_that_is_meant(graft, api):
    seen, _ = api
    assert graft("dataset", "forget")[0] == 2 and not seen
    assert graft("dataset", "forget", "--yes")[0] == 0
    assert graft("dataset", "forget", "--model", "support")[0] == 0
    assert seen == [("DELETE", "/api/kept", ""), ("DELETE", "/api/kept", "model=support")]


def test_times_are_ago_or_dates():
    assert moment("90m", now=10_000) == 4600
    assert moment("1.5d", now=1e6) == 1e6 - 129_600
    assert moment("2026-11-21") == time.mktime(time.strptime("2026-11-21", "%Y-%m-%d"))
    with pytest.raises(InvalidRequest, match="no time"):
        moment("yesterday")
