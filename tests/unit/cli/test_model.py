"""``graft model``: what the API knows, as tables."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from graftwork.api.wire.models import catalogue_wire, sheet_wire
from graftwork.cli import main as entry
from graftwork.models import Catalogue

CATALOGUE = Catalogue()


class Handler(BaseHTTPRequestHandler):
    """Answers from the catalogue, as the API does."""

    def do_GET(self):
        name = unquote(self.path).removeprefix("/api/models").strip("/")
        if name:
            body = sheet_wire(CATALOGUE.get(name)).model_dump()
        else:
            body = {"data": [catalogue_wire(one).model_dump() for one in CATALOGUE.list()]}
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def graft(capsys, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("GRAFTWORK_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GRAFTWORK_API_KEY", "key")

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            entry.main(list(arguments))
        said = capsys.readouterr()
        return ended.value.code, said.out

    yield run
    server.shutdown()
    thread.join()
    server.server_close()


def test_ls_lists_every_model_with_its_sizes(graft):
    code, out = graft("model", "ls")
    lines = {line.split("\t")[0]: line.split("\t") for line in out.splitlines()}
    assert code == 0 and len(lines) == len(CATALOGUE.list())
    assert lines["Qwen/Qwen3-30B-A3B"][1:5] == ["30.5 B", "2.7 B", "40960", "embedded, vllm"]
    assert graft("model", "ls", "--quiet")[1].splitlines()[0] == "seedling"


def test_show_tells_targets_engines_and_memory(graft):
    code, out = graft("model", "show", "Qwen/Qwen3-Next-80B-A3B-Instruct")
    facts = dict(line.split("\t") for line in out.splitlines())
    assert code == 0
    assert facts["targets: linear_attention"] == "in_proj_qkvz, in_proj_ba, out_proj"
    assert facts["adapter"].startswith("rank 16, 1 on each expert")
    assert facts["served by embedded"] == "yes"
    assert "Triton" in facts["served by vllm"]
    gpt_oss = graft("model", "show", "openai/gpt-oss-20b")[1]
    assert "served by vllm\tno: " in gpt_oss
    assert float(facts["memory: sft on gpu"].split()[0]) > 149
    assert "main" in facts["repository"]


def test_json_is_the_apis(graft):
    _, out = graft("model", "show", "seedling", "--json")
    assert json.loads(out) == json.loads(sheet_wire(CATALOGUE.get("seedling")).model_dump_json())
