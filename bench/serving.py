"""The embedded engine against plain transformers + PEFT: eight requests for eight adapters, the same
greedy tokens.

    python -m bench.serving [--base DIR] [--rounds 5]

Three ways take turns, each on one thread: (a) the engine process over HTTP, all requests at once; (b)
PEFT, one request after another with ``set_adapter``; (c) PEFT, one batch of mixed adapters
(``adapter_names``). The answers of (a) and (b) are compared token for token. Writes
``bench/results/serving-cpu.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

import graftwork
from bench import save
from graftwork.serving.client import EngineClient
from graftwork.serving.embedded_driver import EmbeddedEngine
from graftwork.serving.embedded_process import EmbeddedOptions

ADAPTERS, RANK, PROMPT, TOKENS = 8, 16, 50, 100
RESULT = Path(__file__).parent / "results" / "serving-cpu.json"
NAMES = [f"adapter{i}" for i in range(ADAPTERS)]
PROMPTS = [[10 + (7 * i + 3 * j) % 300 for j in range(PROMPT)] for i in range(ADAPTERS)]


def make_adapters(base: Path, folder: Path) -> None:
    """Random adapters on all linear layers."""
    for seed, name in enumerate(NAMES):
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        wrapped = get_peft_model(model, config)
        torch.manual_seed(seed)
        for path, weight in wrapped.named_parameters():
            if "lora_" in path:
                torch.nn.init.normal_(weight, std=0.02)
        wrapped.save_pretrained(folder / name)


def peft_model(base: Path, folder: Path) -> PeftModel:
    """All adapters on one base model, as PEFT does it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wrapped = PeftModel.from_pretrained(model, folder / NAMES[0], adapter_name=NAMES[0])
    for name in NAMES[1:]:
        wrapped.load_adapter(folder / name, adapter_name=name)
    return wrapped.eval()


def one_by_one(model: PeftModel) -> list[list[int]]:
    """Each request alone."""
    answers = []
    for name, prompt in zip(NAMES, PROMPTS, strict=True):
        model.set_adapter(name)
        answers += generate(model, [prompt])
    return answers


def mixed_batch(model: PeftModel) -> list[list[int]]:
    """All requests in one static batch."""
    return generate(model, PROMPTS, adapter_names=NAMES)


@torch.inference_mode()
def generate(model: PeftModel, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    """Greedy, exactly TOKENS tokens each."""
    tokens = torch.tensor(prompts)
    out = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    return out[:, PROMPT:].tolist()


async def engine_at_once(client: EngineClient) -> list[str]:
    """All requests at once, over HTTP."""
    options = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    answers = await asyncio.gather(
        *[client.complete(name, prompt, **options) for name, prompt in zip(NAMES, PROMPTS, strict=True)]
    )
    return [answer["choices"][0]["text"] for answer in answers]


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Tokens a second, and the result."""
    start = time.perf_counter()
    result = act()
    return ADAPTERS * TOKENS / (time.perf_counter() - start), result


async def measure(base: Path, rounds: int, folder: Path) -> dict[str, Any]:
    """Alternate the three ways ``rounds`` times, after one round to warm up."""
    make_adapters(base, folder)
    model = peft_model(base, folder)
    decode = transformers.AutoTokenizer.from_pretrained(base).decode
    engine = EmbeddedEngine(folder / "engine", EmbeddedOptions(device="cpu", threads=1))
    info = await engine.ensure(base, "bench")
    speeds: dict[str, list[float]] = {"engine": [], "one_by_one": [], "mixed_batch": []}
    same = 0
    async with EngineClient(info.url, info.token) as client:
        for name in NAMES:
            await engine.load(name, folder / name)
        for turn in range(rounds + 1):
            start = time.perf_counter()
            texts = await engine_at_once(client)
            served = ADAPTERS * TOKENS / (time.perf_counter() - start)
            alone, tokens = timed(lambda: one_by_one(model))
            batched, _ = timed(lambda: mixed_batch(model))
            expected = [decode(answer, skip_special_tokens=True) for answer in tokens]
            same = sum(a == b for a, b in zip(texts, expected, strict=True))
            if turn:
                speeds["engine"].append(served)
                speeds["one_by_one"].append(alone)
                speeds["mixed_batch"].append(batched)
    await engine.destroy()
    return {"speeds": speeds, "answers_equal": same}


def machine() -> dict[str, Any]:
    """Where this was measured, in words."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_before": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> int:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    built_in = Path(graftwork.__file__).parent / "models" / "seedling"
    parser.add_argument("--base", type=Path, default=built_in)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    where = machine()
    with tempfile.TemporaryDirectory() as folder:
        measured = asyncio.run(measure(asked.base, asked.rounds, Path(folder)))
    speeds = measured["speeds"]
    ratios = {
        way: [served / other for served, other in zip(speeds["engine"], speeds[way], strict=True)]
        for way in ("one_by_one", "mixed_batch")
    }
    result = {
        "what": f"{ADAPTERS} requests, {ADAPTERS} adapters of rank {RANK} on all linear layers of "
        f"{asked.base.name}, prompts of {PROMPT} and answers of {TOKENS} tokens, greedy, float32, one thread",
        "machine": where,
        "tokens_per_second": {way: round(statistics.median(values)) for way, values in speeds.items()},
        "engine_over": {
            way: {
                "median": round(statistics.median(values), 2),
                "least": round(min(values), 2),
                "most": round(max(values), 2),
            }
            for way, values in ratios.items()
        },
        "answers_equal_to_one_by_one": f"{measured['answers_equal']} of {ADAPTERS}",
        "rounds": asked.rounds,
    }
    save(asked.out, result)
    return 0 if measured["answers_equal"] == ADAPTERS else 1


if __name__ == "__main__":
    sys.exit(main())
