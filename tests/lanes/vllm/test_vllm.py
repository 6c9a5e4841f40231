"""vLLM's answers with our adapters are those of transformers + PEFT; and what vLLM on a CPU cannot is known.

Where it cannot, the test says so by its reason: when a later vLLM can, the test fails and the table in
``graftwork.models.support`` and docs/models.md is to be changed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file
from tinyadapters import load_plain, plain_logits
from tinyserving import plain_greedy
from transformers import AutoModelForCausalLM

from graftwork.models.support import SUPPORT, Engine
from graftwork.runs.documents import Probe
from graftwork.serving.client import EngineClient
from graftwork.serving.probe import agreement, effect
from graftwork.serving.vllm_adapter import for_vllm

pytestmark = pytest.mark.timeout(1800)  # the first test waits for all cases; a busy machine takes its time
DENSE = ("qwen3", "qwen2", "llama", "mistral", "gemma3_text", "glm4")


@pytest.mark.parametrize("architecture", DENSE)
def test_a_batch_of_several_adapters_answers_as_peft_does(cases: dict[str, Any], architecture: str) -> None:
    case = cases[architecture]
    assert case.result["loaded"] == {"attention": True, "everything": True}
    assert "error" not in case.result
    plain = [plain_logits(load_plain(case.base), prompt).log_softmax(-1) for prompt in case.prompts]
    for adapter, answers in case.result["answers"].items():
        model = load_plain(case.base, case.adapters[adapter])
        for prompt, without, answer in zip(case.prompts, plain, answers, strict=True):
            assert answer["tokens"] == plain_greedy(model, prompt, case.tokens)
            tokens = prompt + answer["tokens"]
            scores = plain_logits(model, tokens).log_softmax(-1)
            expected = [scores[i, token].item() for i, token in enumerate(tokens[1:])]
            assert answer["prompt"][1:] + answer["logprobs"] == pytest.approx(expected, abs=1e-4)
            assert max(abs(without[i, t] - answer["prompt"][i + 1]) for i, t in enumerate(prompt[1:])) > 0.1
    assert SUPPORT[architecture].engines["vllm"] == Engine()


@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen3_next"])
def test_on_a_cpu_a_mixture_takes_adapters_but_cannot_compute_with_any(
    cases: dict[str, Any], architecture: str
) -> None:
    """vLLM computes experts beside LoRA by Triton kernels alone, also where only attention is adapted."""
    result = cases[architecture].result
    assert set(result["loaded"].values()) == {True}
    assert set(result["loaded"]) >= {"attention", "experts"}
    assert "triton" in result["error"]
    assert "not on a CPU" in SUPPORT[architecture].engines["vllm"].unseen


@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen3_next"])
def test_what_lies_in_its_buffers_of_the_experts_is_our_adapter(
    cases: dict[str, Any], architecture: str
) -> None:
    case = cases[architecture]
    halves = load_file(case.adapters["experts"] / "adapter_model.safetensors")
    place = list(case.adapters).index("experts") + 1
    assert case.result["buffers"]
    for module, held in case.result["buffers"].items():
        slot = held["slots"].index(place)
        prefix = f"base_model.model.{module}"
        gate_up = _stack(halves, f"{prefix}.base_layer")
        middle = gate_up.shape[1] // 2
        expected = [gate_up[:, :middle], gate_up[:, middle:], _stack(halves, prefix)]
        pairs = [*zip(held["w13_a"], held["w13_b"], strict=True), (held["w2_a"][0], held["w2_b"][0])]
        for (down, up), wanted in zip(pairs, expected, strict=True):
            delta = torch.tensor(up[slot]) @ torch.tensor(down[slot])
            bound = {"rtol": 0.03, "atol": 0.01} if architecture == "qwen3_next" else {}  # bfloat16
            torch.testing.assert_close(delta, wanted, **bound)


def _stack(halves: dict[str, torch.Tensor], path: str) -> torch.Tensor:
    """What the adapter adds to each expert, [experts, out, in]: rank 2 of 8 experts, scale 2."""
    down, up = halves[f"{path}.lora_A.weight"], halves[f"{path}.lora_B.weight"]
    return 2 * torch.einsum("ore,eri->eoi", up.view(len(up), 2, 8), down.view(8, 2, -1))


def test_a_merged_mixture_is_served_as_the_adapter_would_be(cases: dict[str, Any]) -> None:
    case = cases["qwen3_moe merged"]
    model = load_plain(case.base)
    for prompt, answer in zip(case.prompts, case.result["answers"]["base"], strict=True):
        assert answer["tokens"] == plain_greedy(model, prompt, case.tokens)
        assert answer["prompt"][1:] == pytest.approx(_scores(model, prompt), abs=1e-4)


def test_a_merged_hybrid_is_as_near_as_bfloat16_lets_it(cases: dict[str, Any]) -> None:
    """vLLM computes Gated DeltaNet on a CPU in bfloat16 only."""
    case = cases["qwen3_next merged"]
    exact = load_plain(case.base)
    rounded = AutoModelForCausalLM.from_pretrained(case.base, dtype=torch.bfloat16).eval()
    before = load_plain(cases["qwen3_next"].base)
    for prompt, answer in zip(case.prompts, case.result["answers"]["base"], strict=True):
        expected = torch.tensor(_scores(exact, prompt))
        noise = (torch.tensor(_scores(rounded, prompt)) - expected).abs().max()
        error = (torch.tensor(answer["prompt"][1:]) - expected).abs().max()
        assert error < max(3 * noise, torch.tensor(0.05))
        assert (torch.tensor(_scores(before, prompt)) - expected).abs().max() > 5 * error


def _scores(model: Any, tokens: list[int]) -> list[float]:
    scores = plain_logits(model, tokens).log_softmax(-1)
    return [scores[i, token].item() for i, token in enumerate(tokens[1:])]


@pytest.fixture(scope="module")
def server(cases: dict[str, Any], python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``vllm serve`` over tiny Qwen3; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = (
        f"{python} -m vllm.entrypoints.cli.main serve {cases['qwen3'].base} --served-model-name plain "
        f"--host 127.0.0.1 --port {port} --dtype float32 --max-model-len 128 --enforce-eager --enable-lora "
        "--max-loras 3 --max-lora-rank 8 --api-key secret "
        "--lora-target-modules qkv_proj o_proj gate_up_proj down_proj"
    )
    settings = {
        "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command.split(), env=settings, stdout=log, stderr=log)
    try:
        _await(process, f"http://127.0.0.1:{port}/health", folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _await(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(900):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"not up: {log.read_text()[-3000:]}")


async def test_the_probes_see_an_adapter_that_was_loaded_while_it_ran(
    cases: dict[str, Any], server: str, tmp_path: Path
) -> None:
    """The base is asked through an adapter of zeros: beside LoRA, vLLM on a CPU gives it another's rows."""
    case = cases["qwen3"]
    for_vllm(case.adapters["everything"], tmp_path / "mine")
    for_vllm(case.adapters["everything"], tmp_path / "base")
    halves = load_file(tmp_path / "base" / "adapter_model.safetensors")
    save_file(
        {name: torch.zeros_like(half) for name, half in halves.items()},
        tmp_path / "base" / "adapter_model.safetensors",
    )
    for name in ("mine", "base"):
        asked = {"lora_name": name, "lora_path": str(tmp_path / name)}
        told = httpx.post(
            f"{server}/v1/load_lora_adapter",
            json=asked,
            headers={"Authorization": "Bearer secret"},
            timeout=60,
        )
        assert told.status_code == 200, told.text
    adapted, plain = load_plain(case.base, case.adapters["everything"]), load_plain(case.base)
    probes = [
        Probe(tokens=p, start=1, logprobs=_scores(adapted, p), base_logprobs=_scores(plain, p))
        for p in case.prompts
    ]
    async with EngineClient(server, "secret") as client:
        served = [await client.score("mine", probe.tokens) for probe in probes]
        base = [await client.score("base", probe.tokens) for probe in probes]
    assert effect(probes, served, base).ok
    assert agreement(probes, served, bound=1e-4).ok
    assert not effect(probes, base, base).ok
