"""The engine process: loads the base model, listens on loopback, writes ``{"url", "pid"}`` to the ready file.

    python -m graftwork.serving.embedded --base DIR --name NAME --token-file F --ready-file F

It ends on SIGTERM, and when its standard input closes: whoever started it holds the other end, so it never
outlives its parent.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import torch
import transformers

from graftwork.core.errors import GraftworkError
from graftwork.serving.embedded.engine import EmbeddedBackend
from graftwork.serving.embedded.kv import KVShape, StateShape
from graftwork.serving.embedded.model import BaseModel
from graftwork.serving.embedded.scheduler import Limits
from graftwork.serving.wire.app import build_app
from graftwork.serving.wire.codec import TokenizerCodec
from graftwork.serving.wire.server import LoopbackServer

_log = logging.getLogger("graftwork.serving.embedded")

UNSUITABLE = 3
"""Exit code for a model this engine cannot run; the last line on stderr is the error as JSON."""
SMALL = 100_000_000
"""Weights below which a second thread costs more at its barriers than it computes."""
MEMORY_SHARE = {"cuda": 0.8, "cpu": 0.25}
"""Share of the free memory that the cache may take."""


def arguments() -> argparse.Namespace:
    """The command line."""
    usual = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m graftwork.serving.embedded", description="The embedded engine."
    )
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--name", required=True, help="the base model's name, for people")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--token-file", type=Path, required=True, help="file with the bearer token")
    parser.add_argument("--ready-file", type=Path, required=True, help="written when the engine answers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="default: 1 for small models, else torch's")
    parser.add_argument("--max-running", type=int, default=usual.max_running)
    parser.add_argument("--max-waiting", type=int, default=usual.max_waiting)
    parser.add_argument("--batch-tokens", type=int, default=usual.batch_tokens)
    parser.add_argument("--kv-tokens", type=int, default=None, help="default: by free memory")
    return parser.parse_args()


def kv_tokens(shape: KVShape, state: StateShape | None = None, running: int = 0) -> int:
    """Tokens of cache for a share of the memory now free, less the states of ``running`` sequences.

    Half of that share counts, since a row of the cache may be twice as long as its content.
    """
    if shape.device.type == "cuda":
        free = torch.cuda.mem_get_info(shape.device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    share = MEMORY_SHARE.get(shape.device.type, 0.25)
    left = free * share - (state.bytes_per_sequence * running if state is not None else 0)
    return min(max(int(left / 2 / shape.bytes_per_token), 2048), 1 << 20)


async def serve(asked: argparse.Namespace, token: str) -> int:
    """Serve until told to end. Returns the exit code."""
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    _watch_parent(lambda: loop.call_soon_threadsafe(end.set))
    device = torch.device(asked.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = await asyncio.to_thread(BaseModel, asked.base, device, dtype)
    if asked.threads or model.weights < SMALL:
        torch.set_num_threads(asked.threads or 1)
    limits = Limits(
        max_running=asked.max_running,
        max_waiting=asked.max_waiting,
        batch_tokens=asked.batch_tokens,
        kv_tokens=asked.kv_tokens or kv_tokens(model.kv, model.states, asked.max_running),
    )
    died = asyncio.Event()

    def on_death() -> None:
        loop.call_soon_threadsafe(died.set)
        loop.call_soon_threadsafe(end.set)

    backend = EmbeddedBackend(model, TokenizerCodec(asked.base), asked.name, limits, on_death)
    server = LoopbackServer(build_app(backend, token), asked.host, asked.port, grace=5)
    serving = asyncio.create_task(server.run_here())
    await server.listening.wait()
    _write_ready(asked.ready_file, server.url)
    _log.info("%s answers at %s, %d tokens of cache", asked.name, server.url, limits.kv_tokens)
    await asyncio.wait({serving, asyncio.create_task(end.wait())}, return_when=asyncio.FIRST_COMPLETED)
    server.stop(at_once=died.is_set())
    await serving
    await backend.close()
    return 1 if died.is_set() else 0


def _watch_parent(gone: Callable[[], object]) -> None:
    def watch() -> None:
        # os.read and not sys.stdin: a buffered reader must not be held by a thread when the interpreter ends.
        while os.read(0, 4096):
            pass
        gone()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _write_ready(path: Path, url: str) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(orjson.dumps({"url": url, "pid": os.getpid()}))
    part.replace(path)


def main() -> int:
    """Run the process."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    transformers.utils.logging.disable_progress_bar()
    asked = arguments()
    token = asked.token_file.read_text().strip()
    if not token:
        _log.error("%s is empty", asked.token_file)
        return 2
    try:
        return asyncio.run(serve(asked, token))
    except GraftworkError as error:
        told = {"code": error.code, "message": error.message, "fix": error.fix}
        sys.stderr.write(orjson.dumps(told).decode() + "\n")
        return UNSUITABLE


if __name__ == "__main__":
    sys.exit(main())
