"""A trained adapter's GGUF, run by llama.cpp, answers held-out tickets as the served adapter does.

The numbers are printed: pytest -s shows them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import EXAMPLES, Up, clean_environment, finish, rows, running, upload

# The session's only training happens in the first test that needs it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SHARE = {"f16": 0.99, "q8_0": 0.95, "q4_k_m": 0.9}
QUESTIONS = [row["messages"][:-1] for row in rows("tickets.valid.jsonl")]


@pytest.fixture(scope="module")
def up(llama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up")) as server:
        yield server


@pytest.fixture(scope="module")
def served(up: Up) -> list[str]:
    """The trained adapter's greedy answers through the gateway and the embedded engine."""
    client = up.client()
    files = [upload(client, EXAMPLES / f"tickets.{kind}.jsonl") for kind in ("train", "valid")]
    job = client.fine_tuning.jobs.create(
        model="seedling", training_file=files[0], validation_file=files[1], suffix="tickets", seed=7
    )
    ended = finish(client, job.id, limit=1000)
    assert ended.status == "succeeded", ended.error
    answers = []
    for question in QUESTIONS:
        answer = client.chat.completions.create(
            model="tickets@1", messages=question, temperature=0, max_tokens=64
        )
        answers.append(answer.choices[0].message.content)
    assert sum(text.startswith("{") for text in answers) > 0.9 * len(answers)
    return answers


def graft(up: Up, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "graftwork", "adapter", *arguments],
        capture_output=True,
        text=True,
        env={**clean_environment(up.data), "GRAFTWORK_DATA": str(up.data)},
        cwd=folder,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def equal(llama, served: list[str], **files: Any) -> float:
    answers = llama(questions=QUESTIONS, **files)["answers"]
    return sum(a == b for a, b in zip(answers, served, strict=True)) / len(served)


@pytest.mark.parametrize("quant", SHARE)
def test_the_gguf_answers_as_the_served_adapter(quant: str, up: Up, served, llama, tmp_path: Path):
    folder = graft(up, tmp_path, "export", "tickets@1", "--format", "gguf", "--quant", quant)
    [file] = (tmp_path / folder).glob("*.gguf")
    share = equal(llama, served, model=str(file))
    print(f"\n{quant}: {share:.1%} of {len(served)} answers equal, {file.stat().st_size / 1e6:.1f} MB")
    assert share >= SHARE[quant]


def test_the_lora_gguf_over_its_base_does_so_too(up: Up, served, llama, tmp_path: Path):
    graft(up, tmp_path, "export", "tickets", "--format", "lora-gguf", "--with-base", "-o", "out")
    told = (tmp_path / "out/Modelfile").read_text().splitlines()
    model, lora = (tmp_path / "out" / line.split()[1] for line in told[:2])
    share = equal(llama, served, model=str(model), lora=str(lora))
    print(f"\nLoRA over f16: {share:.1%} of {len(served)} answers equal")
    assert share >= SHARE["f16"]


def test_the_base_alone_does_not(up: Up, served, llama, tmp_path: Path):
    graft(up, tmp_path, "export", "tickets@1", "--format", "lora-gguf", "--with-base", "-o", "out")
    [base] = (tmp_path / "out").glob("seedling-*.gguf")
    assert equal(llama, served, model=str(base)) < 0.1


def test_ollama_and_lmstudio_get_the_same_file(up: Up, served, tmp_path: Path):
    for kind in ("gguf", "ollama", "lmstudio"):
        graft(up, tmp_path, "export", "tickets@1", "--format", kind, "-o", kind)
    contents = {path.read_bytes() for path in tmp_path.rglob("*.gguf")}
    assert len(contents) == 1
    assert (tmp_path / "ollama/Modelfile").read_text().startswith("FROM ./tickets-1-f16.gguf\n")
    assert (tmp_path / "lmstudio/personal/tickets-1-GGUF/tickets-1-f16.gguf").is_file()
    told = json.loads(graft(up, tmp_path, "export", "tickets@1", "--format", "gguf", "-o", "gguf", "--json"))
    assert {file["path"] for file in told["files"]} == {"README.md", "tickets-1-f16.gguf"}
