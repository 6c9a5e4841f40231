"""What the gateway costs: CPU per request and per streamed chunk, added latency, durable metering included.

``python -m bench.gateway [--requests N]``. Three processes: a canned engine (raw asyncio), the gateway
(uvicorn on uvloop; ledger on SQLite, each row committed before its answer), and this one, which asks.
CPU is the gateway's own user and system time, so other load on the machine blurs latency but not it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
import uvicorn

from bench import save
from graftwork.api.serve import loop_factory
from graftwork.core import ids
from graftwork.core.keys import key_digest, new_key
from graftwork.core.nouns import ApiKey, Organization, Project
from graftwork.gateway import Gateway
from graftwork.gateway.upstream import UpstreamClient
from graftwork.store import Store

BASE, PEPPER, CHUNKS = "seedling", b"bench", 64
PATH = "/v1/chat/completions"
RESULT = Path(__file__).parent / "results" / "gateway.json"
HEAD = {"id": "chatcmpl-engine", "created": 1, "model": "base"}


def usage(tokens: int) -> dict[str, int]:
    """OpenAI's ``usage``."""
    return {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens}


def plain() -> bytes:
    """A canned answer of about 0.4 KB."""
    message = {"role": "assistant", "content": "word " * 30}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = orjson.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": usage(30)})
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def streamed() -> bytes:
    """A canned stream with running counts."""
    out = [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"]
    events = []
    for number in range(CHUNKS):
        choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
        chunk = {**HEAD, "object": "chat.completion.chunk", "choices": [choice], "usage": usage(number)}
        events.append(orjson.dumps(chunk))
    last = {**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": usage(CHUNKS)}
    for payload in [*events, orjson.dumps(last), b"[DONE]"]:
        event = b"data: " + payload + b"\n\n"
        out.append(b"%x\r\n%s\r\n" % (len(event), event))
    return b"".join([*out, b"0\r\n\r\n"])


async def engine() -> None:
    """The canned engine: prints its port, serves until killed."""
    answers = {False: plain(), True: streamed()}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                writer.write(answers[b'"stream":true' in body])
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def gateway(folder: str, engine_port: str) -> None:
    """The gateway: prints its port and a key, serves until killed."""
    store = await Store.open(f"sqlite:///{folder}/bench.db")
    parts = new_key()
    async with store.begin() as tx:
        await tx.organizations.create(Organization(id="org-1", name="bench", created_at=1.0))
        await tx.projects.create(Project(id="proj_1", organization_id="org-1", name="p", created_at=1.0))
        digest = key_digest(parts.secret, PEPPER)
        key = ApiKey(
            id=ids.new_id(ids.KEY),
            project_id="proj_1",
            name="bench",
            lookup=parts.lookup,
            digest=digest,
            created_at=1.0,
        )
        await tx.keys.create(key)
        book = {"version": "1", "models": {BASE: {"train": 1, "input": 1, "output": 1}}}
        await tx.prices.put("1", book)
        endpoint = await tx.endpoints.ensure(BASE, "canned", 1.0)
        live = {"state": "ready", "url": f"http://127.0.0.1:{engine_port}", "token": "t"}
        await tx.endpoints.update(endpoint.id, **live)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list | None = None) -> None:
            await super().startup(sockets)
            print(self.servers[0].sockets[0].getsockname()[1], parts.text, flush=True)

    config = uvicorn.Config(
        Gateway(store, pepper=PEPPER), port=0, loop="none", access_log=False, log_level="error", lifespan="on"
    )
    await Server(config).serve()


def cpu(process: subprocess.Popen[bytes]) -> float:
    """Seconds of CPU the process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def ask(url: str, key: str | None, *, stream: bool, count: int, callers: int) -> list[float]:
    """Ask ``count`` times from ``callers`` connections; milliseconds of each answer."""
    client = UpstreamClient()
    message = {"role": "user", "content": "how are you today? " * 10}
    model = "base" if key is None else BASE
    body = orjson.dumps({"model": model, "messages": [message], "max_tokens": 64, "stream": stream})
    took: list[float] = []

    async def caller(times: int) -> None:
        for _ in range(times):
            began = time.perf_counter()
            async with await client.post(url, PATH, body, token=key) as response:
                data = await response.read(1 << 20)
            took.append((time.perf_counter() - began) * 1000)
            assert response.status == 200, data
            assert not stream or data.endswith(b"data: [DONE]\n\n")

    await asyncio.gather(*(caller(count // callers) for _ in range(callers)))
    client.close()
    return took


def child(*arguments: str) -> tuple[subprocess.Popen[bytes], list[str]]:
    """Start one of the other two processes; it and the words of its first line."""
    process = subprocess.Popen([sys.executable, "-m", "bench.gateway", *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, process.stdout.readline().decode().split()


async def measure(requests: int, folder: str) -> dict[str, object]:
    """All figures."""
    backend, [port] = child("engine")
    front, [gateway_port, key] = child("gateway", folder, port)
    direct, through = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{gateway_port}"
    figures: dict[str, object] = {}
    try:
        for stream in (False, True):
            count = requests // (4 if stream else 1)
            await ask(through, key, stream=stream, count=200, callers=8)  # warm
            before = cpu(front)
            began = time.perf_counter()
            loaded = await ask(through, key, stream=stream, count=count, callers=32)
            wall = time.perf_counter() - began
            used = (cpu(front) - before) / len(loaded) * 1e6
            alone = await ask(through, key, stream=stream, count=300, callers=1)
            bare = await ask(direct, None, stream=stream, count=300, callers=1)
            figures["stream" if stream else "plain"] = {
                "gateway_cpu_us_per_request": round(used),
                "requests_per_second_seen": round(len(loaded) / wall),
                "requests_per_second_per_core": round(1e6 / used),
                "p50_ms_alone": round(statistics.median(alone), 2),
                "p50_ms_direct": round(statistics.median(bare), 2),
                "p99_ms_alone": round(statistics.quantiles(alone, n=100)[98], 2),
            }
        figures["memory_mb"] = round(_resident(front) / 1e6)
    finally:
        for process in (front, backend):
            process.kill()
            process.wait()
    rows = {name: row["gateway_cpu_us_per_request"] for name, row in figures.items() if isinstance(row, dict)}
    figures["cpu_us_per_chunk"] = round((rows["stream"] - rows["plain"]) / CHUNKS, 1)
    return figures


def _resident(process: subprocess.Popen[bytes]) -> int:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("child", nargs="*", help="how this script starts its other two processes")
    parser.add_argument("--requests", type=int, default=4000)
    options = parser.parse_args()
    if options.child:
        role, *rest = options.child
        asyncio.Runner(loop_factory=loop_factory).run(engine() if role == "engine" else gateway(*rest))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.Runner(loop_factory=loop_factory).run(measure(options.requests, folder))
    figures["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    save(RESULT, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
