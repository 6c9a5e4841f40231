"""``graft demo``: the whole life of an adapter on a small example, against a real server of its own."""

from __future__ import annotations

import json as jsonlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graftwork.cli.bill import COLUMNS as BILL_COLUMNS
from graftwork.cli.bill import lines as bill_lines
from graftwork.cli.connection import Server
from graftwork.cli.output import duration, put, say, table
from graftwork.cli.watch import follow, gate_lines
from graftwork.core.errors import PlatformError
from graftwork.core.money import dollars

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
ADAPTER = "tickets"


def demo(*, data: Path | None = None, questions: int = 5, keep: bool = False) -> int:
    """Start a server, train an adapter on an example, gate it, ask it, print the bill, and stop.

    The example turns support tickets into JSON. Nothing is downloaded and nothing is left running.

    Parameters
    ----------
    data:
        Folder for the demo's server; a temporary one, removed afterwards, when not given.
    questions:
        How many held-out tickets to ask base and adapter.
    keep:
        Keep the temporary folder.
    """
    began = time.monotonic()
    folder = data or Path(tempfile.mkdtemp(prefix="graftwork-demo-"))
    try:
        with running(folder) as server:
            job = _train(server)
            if job["status"] != "succeeded":
                say(f"The job ended as {job['status']}: {jsonlib.dumps(job.get('error'))}")
                return 1
            right = _ask(server, job["fine_tuned_model"], questions)
            _heading("The bill")
            found = server.get("/api/bill")
            table(bill_lines(found), BILL_COLUMNS, people=True)
            put(f"Total {dollars(found['total_micro'])}")
    finally:
        if data is None and not keep:
            shutil.rmtree(folder, ignore_errors=True)
    _heading(f"Done in {duration(time.monotonic() - began)}: {right} of {questions} held-out tickets right")
    return 0 if right >= questions * 0.8 else 1


def _heading(text: str) -> None:
    put(f"\n── {text}")


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A ``graft up`` of our own on a free port, stopped at the end however it comes."""
    _heading("Starting a server on this machine (graft up)")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "server.log").open("wb") as log:
        command = [
            sys.executable,
            "-m",
            "graftwork",
            "up",
            "--data",
            str(folder),
            "--port",
            "0",
            "--show-key",
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            line = process.stdout.readline() if process.stdout else b""
            if not line:
                tail = (folder / "server.log").read_text(errors="replace")[-2000:]
                raise PlatformError("The server did not start.", fix=tail, code="server_failed")
            ready = jsonlib.loads(line)
            put(f"   {ready['url']}")
            yield Server(ready["url"], ready["api_key"])
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _train(server: Server) -> dict[str, Any]:
    _heading("Uploading an example: support tickets, to be turned into JSON")
    files = {kind: server.upload(EXAMPLES / f"tickets.{kind}.jsonl") for kind in ("train", "valid")}
    for kind, file in files.items():
        put(f"   {file['id']}  {file['filename']}  {file['bytes']:,} bytes ({kind})")
    _heading("Training a LoRA adapter on the base model `seedling`")
    body = {
        "model": "seedling",
        "training_file": files["train"]["id"],
        "validation_file": files["valid"]["id"],
        "suffix": ADAPTER,
        "seed": 1,
    }
    job = follow(server, server.post("/v1/fine_tuning/jobs", body)["id"])
    gate = (job.get("graftwork") or {}).get("gate")
    if gate:
        _heading("The gate: is the new version better than the base?")
        for line in gate_lines(gate):
            put("   " + line)
    return job


def _ask(server: Server, model: str, questions: int) -> int:
    """Ask held-out tickets; print base and adapter side by side; how many the adapter got right."""
    _heading(f"Held-out tickets, answered by the base and by {model}")
    right = 0
    rows = [jsonlib.loads(line) for line in (EXAMPLES / "tickets.valid.jsonl").read_text().splitlines()]
    for row in rows[:: max(1, len(rows) // questions)][:questions]:
        *asked, wanted = row["messages"]
        answers = {name: _chat(server, name, asked) for name in ("seedling", model)}
        right += answers[model] == wanted["content"]
        mark = "right" if answers[model] == wanted["content"] else f"wrong, wanted {wanted['content']}"
        put(f"   ticket   {asked[-1]['content']}")
        put(f"   base     {answers['seedling'][:100]!r}")
        put(f"   adapter  {answers[model]}   ({mark})\n")
    return right


def _chat(server: Server, model: str, messages: list[dict[str, str]]) -> str:
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 64}
    answer = server.post("/v1/chat/completions", body)
    return answer["choices"][0]["message"]["content"].strip()
