"""The teaching version gives the answers that plain transformers and PEFT give."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from tinyserving import END, plain_greedy, plain_model

from graftwork.serving.embedded_process import child_environment
from graftwork.serving.wire.codec import TokenizerCodec

SCRIPT = Path(__file__).parents[3] / "examples" / "serve_flat.py"

pytestmark = pytest.mark.slow


async def _run(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SCRIPT), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(os.environ),
    )
    out, error = await process.communicate()
    return process.returncode, (out + error).decode()


def test_it_stays_small() -> None:
    assert len(SCRIPT.read_text().splitlines()) < 200


async def test_its_answers_are_those_of_peft(qwen) -> None:
    questions = {"base": "one two", "every": "three", "down": "a somewhat longer question", "attention": "x"}
    adapters = [word for name, path in qwen.adapters.items() for word in ("--adapter", f"{name}={path}")]
    asked = [f"{model}:{question}" for model, question in questions.items()]
    code, out = await _run(
        "--base", str(qwen.base), *adapters, "--max-tokens", "20", "--at-once", "3", *asked
    )
    assert code == 0, out
    codec = TokenizerCodec(qwen.base)
    for model, question in questions.items():
        prompt = codec.encode(codec.render([{"role": "user", "content": question}], None), special=False)
        tokens = plain_greedy(plain_model(qwen.base, qwen.adapters.get(model)), prompt, 20)
        tokens = tokens[: tokens.index(END)] if END in tokens else tokens
        assert f"{model}: {codec.decode(tokens)}" in out
