"""Peak memory of the real engine on a random model: run as a program, prints JSON, for tests of the plan."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def config(case: dict[str, Any]) -> dict[str, Any]:
    """``config.json`` of a random Qwen3."""
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": case["vocab"],
        "hidden_size": case["hidden"],
        "intermediate_size": 3 * case["hidden"],
        "num_hidden_layers": case["layers"],
        "num_attention_heads": case["hidden"] // 64,
        "num_key_value_heads": case["hidden"] // 128,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }


def main(case: dict[str, Any]) -> None:
    """Train two steps of ``case`` and say what it took."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from graftwork.core.specs import LoraSpec
    from graftwork.data.encoding import Encoded
    from graftwork.training.base import open_engine
    from graftwork.training.engine import Work
    from graftwork.training.machine import peak_bytes

    torch.set_num_threads(1)
    if "write" in case:
        torch.manual_seed(1)
        Qwen3ForCausalLM(Qwen3Config(**config(case))).save_pretrained(case["write"])
        return
    engine = open_engine(Path(case["folder"]), case.get("quantization", "none"))
    if case.get("recompute"):
        engine.save_memory()
    adapters = [engine.add(LoraSpec(rank=case["rank"]), seed) for seed in range(case["runs"])]
    loaded = peak_bytes()
    length = case["length"]
    tokens = [number % case["vocab"] for number in range(length)]
    row = Encoded(tokens, [index % 3 == 0 for index in range(length)], length)
    for step in range(2):
        engine.forward_backward([Work(adapter, [[row] * case["rows"]], seed=step) for adapter in adapters])
    print(json.dumps({"loaded": loaded, "peak": peak_bytes()}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
