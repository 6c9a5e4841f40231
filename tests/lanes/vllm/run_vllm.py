"""Run by the lane's own Python: one vLLM after another in this process, over the cases of a JSON file.

    python run_vllm.py cases.json results.json

A case: ``base``, ``dtype``, ``adapters`` (folder by name; none: LoRA is off), ``prompts`` (token ids),
``tokens`` (to generate). A result: per adapter and ``base`` the answers, or ``error``; and of mixtures what
lies in vLLM's own buffers of the experts' halves.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
)

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

TARGETS = [
    *("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"),
    *("gate_proj", "up_proj", "gate_up_proj", "down_proj", "experts"),
    *("in_proj_qkvz", "in_proj_ba", "out_proj"),
]
"""All but the output layer: with it, several requests for prompt scores in one batch end in an error."""


def main() -> None:
    cases, results = Path(sys.argv[1]), Path(sys.argv[2])
    done: dict[str, Any] = {}
    for name, case in json.loads(cases.read_text()).items():
        done[name] = run(case)
        results.write_text(json.dumps(done))
        gc.collect()


def run(case: dict[str, Any]) -> dict[str, Any]:
    adapters: dict[str, str] = case["adapters"]
    lora: dict[str, Any] = {}
    if adapters:
        lora = {"enable_lora": True, "max_loras": 4, "max_lora_rank": 8, "lora_target_modules": TARGETS}
    llm = LLM(
        model=case["base"],
        dtype=case["dtype"],
        max_model_len=128,
        max_num_seqs=8,
        enforce_eager=True,
        seed=0,
        **lora,
    )
    requests = {name: LoRARequest(name, i, path) for i, (name, path) in enumerate(adapters.items(), start=1)}
    result: dict[str, Any] = {"loaded": {}, "answers": {}, "buffers": {}}
    for name, request in requests.items():
        result["loaded"][name] = attempt(lambda r=request: bool(llm.llm_engine.add_lora(r)))
    if adapters:
        result["buffers"] = buffers(llm)
    models = [None, *requests] if case.get("plain_base", True) else list(requests)
    works = [(model, prompt) for model in models for prompt in case["prompts"]]
    told = attempt(lambda: answers(llm, works, requests, case["tokens"]))
    if isinstance(told, list):
        for (model, _), answer in zip(works, told, strict=True):
            result["answers"].setdefault(model or "base", []).append(answer)
    else:
        result["error"] = told
    return result


def attempt(act: Any) -> Any:
    """What it returns, or the error as text: what vLLM refuses is what is asked here."""
    try:
        return act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def answers(llm: Any, works: list[Any], requests: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """All works in one batch, greedy."""
    how = SamplingParams(
        temperature=0, max_tokens=count, logprobs=0, prompt_logprobs=0, ignore_eos=True, detokenize=False
    )
    found = llm.generate(
        [{"prompt_token_ids": prompt} for _, prompt in works],
        how,
        lora_request=[requests.get(model) for model, _ in works],
        use_tqdm=False,
    )
    return [
        {
            "tokens": list(out.outputs[0].token_ids),
            "logprobs": [
                at[token].logprob
                for at, token in zip(out.outputs[0].logprobs, out.outputs[0].token_ids, strict=True)
            ],
            "prompt": [
                None if at is None else at[token].logprob
                for at, token in zip(out.prompt_logprobs, prompt, strict=True)
            ],
        }
        for (_, prompt), out in zip(works, found, strict=True)
    ]


def buffers(llm: Any) -> dict[str, Any]:
    """The experts' halves of the adapter activated first, as vLLM will multiply by them: by module."""
    runner = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    manager = runner.lora_manager._adapter_manager
    found: dict[str, Any] = {}
    for name, module in manager.modules.items():
        if hasattr(module, "w13_lora_a_stacked"):
            found[name] = {
                "slots": list(manager.lora_index_to_id),
                "w13_a": [part.tolist() for part in module.w13_lora_a_stacked],
                "w13_b": [part.tolist() for part in module.w13_lora_b_stacked],
                "w2_a": [part.tolist() for part in module.w2_lora_a_stacked],
                "w2_b": [part.tolist() for part in module.w2_lora_b_stacked],
            }
    return found


if __name__ == "__main__":
    main()
