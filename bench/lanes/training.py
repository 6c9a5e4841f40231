"""One candidate of ``bench.training`` in a process of its own: prepared once, then measured whenever asked.

    python -m bench.lanes.training CANDIDATE CASE.json

Writes a JSON line when ready; each line read from standard input is a round, answered by a JSON line with the
tokens, CPU seconds and wall seconds of its steps and the peak memory so far.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Case:
    """Model, rows and adapters; ``lengths`` of the rows of one step of one job."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    steps: list[list[int]]
    jobs: int
    rank: int = 16
    labelled: float = 0.4
    device: str = "cpu"

    @property
    def tokens(self) -> int:
        """Of one round of one job."""
        return sum(map(sum, self.steps))

    def flops_per_token(self) -> float:
        """Frozen products forward and toward their input, the adapters' own, attention, labelled logits."""
        inner, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = [(self.hidden, inner), (self.hidden, kv), (self.hidden, kv), (inner, self.hidden)]
        shapes += [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]
        frozen = self.layers * sum(a * b for a, b in shapes)
        own = self.layers * self.rank * sum(a + b for a, b in shapes)
        rows = [length for step in self.steps for length in step]
        attention = self.layers * 7 * inner * sum(length * length for length in rows) / sum(rows)
        return 4 * frozen + 6 * own + attention + 4 * self.labelled * self.vocabulary * self.hidden


def make_model(case: Case) -> Any:
    """A random Qwen3, the same in every process."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.intermediate,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        head_dim=case.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    kind = torch.bfloat16 if case.device == "cuda" else torch.float32
    with torch.device(case.device):
        torch.set_default_dtype(kind)
        model = Qwen3ForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    return model.eval()


def make_rows(case: Case, job: int) -> list[list[tuple[list[int], list[bool]]]]:
    """Random tokens of each step; the last share of a row is labelled, as answers are."""
    numbers = random.Random(job)
    steps = []
    for lengths in case.steps:
        rows = []
        for length in lengths:
            asked = length - max(1, round(length * case.labelled))
            tokens = [numbers.randrange(3, case.vocabulary) for _ in range(length)]
            rows.append((tokens, [at >= asked for at in range(length)]))
        steps.append(rows)
    return steps


def native(
    case: Case, one_by_one: bool = False, packing: Callable[[Any], Any] = lambda model: model, **options: Any
) -> Callable[[], None]:
    """Our packed engine: all jobs in one call, or one call after another; ``packing`` is done to the base."""
    from graftwork.core.specs import LoraSpec
    from graftwork.data.rendering import Encoded
    from graftwork.training.engine import Sums, Work
    from graftwork.training.optimizer import Optimizer
    from graftwork.training.packed.engine import PackedEngine

    engine = PackedEngine(packing(make_model(case)), **options)
    adapters = [engine.add(LoraSpec(rank=case.rank, alpha=2 * case.rank), job) for job in range(case.jobs)]
    optimizers = [Optimizer(adapter, 0.0, 1.0) for adapter in adapters]
    data = [
        [[Encoded(tokens, labels, len(tokens)) for tokens, labels in rows] for rows in make_rows(case, job)]
        for job in range(case.jobs)
    ]

    def step(number: int, jobs: list[int]) -> None:
        work = [Work(adapters[job], [data[job][number]], number) for job in jobs]
        for outcome, job in zip(engine.forward_backward(work), jobs, strict=True):
            assert isinstance(outcome, Sums), outcome
            optimizers[job].gradient_norm()
            optimizers[job].step(1e-4)

    def run() -> None:
        for number in range(len(case.steps)):
            if one_by_one:
                for job in range(case.jobs):
                    step(number, [job])
            else:
                step(number, list(range(case.jobs)))

    return run


def nf4(case: Case, **options: Any) -> Callable[[], None]:
    """Our packed engine on a base in 4 bits."""
    from graftwork.training.quantizing import pack_

    return native(case, packing=pack_, **options)


def unsloth(case: Case, packed: bool = False) -> Callable[[], None]:
    """Unsloth's own model and LoRA, its fused kernels and its checkpointing, in TRL's SFTTrainer; one job.

    Unsloth patches what it finds imported, so it is imported first, and it reads its model from a folder.
    """
    from unsloth import FastLanguageModel  # pyright: ignore[reportMissingImports] - not one of our packages

    folder = tempfile.mkdtemp()
    make_model(case).save_pretrained(folder)
    write_tokenizer(folder)
    model, _ = FastLanguageModel.from_pretrained(
        folder, max_seq_length=4096, dtype=torch.bfloat16, load_in_4bit=packed, load_in_16bit=not packed
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = FastLanguageModel.get_peft_model(
        model,
        r=case.rank,
        lora_alpha=2 * case.rank,
        lora_dropout=0,
        bias="none",
        target_modules=targets,
        use_gradient_checkpointing="unsloth",
    )
    return trl(case, model=model)


def write_tokenizer(folder: str) -> Any:
    """A tokenizer of three words, which nobody uses: the rows are tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "<end>": 2}, unk_token="<unk>")),
        pad_token="<pad>",
        eos_token="<end>",
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def peft(case: Case) -> Callable[[], None]:
    """A plain loop over PEFT, rows padded to the longest of the step, logits of labelled tokens alone."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=case.rank, lora_alpha=2 * case.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(make_model(case), config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    inner = model.get_base_model()
    data = make_rows(case, 0)

    def run() -> None:
        for rows in data:
            longest = max(len(tokens) for tokens, _ in rows)
            ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in rows])
            on = torch.tensor([labels + [False] * (longest - len(labels)) for _, labels in rows])
            ids, on = ids.to(case.device), on.to(case.device)
            hidden = inner.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][on[:, 1:]]
            loss = functional.cross_entropy(inner.lm_head(hidden).float(), ids[:, 1:][on[:, 1:]])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run


def trl(case: Case, model: Any = None, **options: Any) -> Callable[[], None]:
    """TRL's SFTTrainer on the same rows, in the same order; one job. ``model`` has its LoRA already."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    tokenizer = write_tokenizer(tempfile.mkdtemp())
    rows = [row for step in make_rows(case, 0) for row in step]
    size = len(case.steps[0])
    config = SFTConfig(
        **{
            "output_dir": tempfile.mkdtemp(),
            "use_cpu": case.device == "cpu",
            "bf16": case.device != "cpu",
            "per_device_train_batch_size": size,
            "max_steps": len(case.steps),
            "train_sampling_strategy": "sequential",
            "learning_rate": 1e-4,
            "logging_steps": 1000,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "max_length": None,
            **options,
        }
    )
    lora = LoraConfig(r=case.rank, lora_alpha=2 * case.rank, target_modules="all-linear")
    trainer = SFTTrainer(
        model=model or make_model(case),
        args=config,
        processing_class=tokenizer,
        peft_config=None if model else lora,
        train_dataset=Dataset.from_list(
            [
                {"input_ids": t, "labels": [a if on else -100 for a, on in zip(t, labels, strict=True)]}
                for t, labels in rows
            ]
        ),
    )
    return lambda: trainer.train() and None


def gemm(case: Case) -> Callable[[], None]:
    """Large matrix products as torch.mm makes them: the measured rate that others are a fraction of."""
    size = 2048
    kind = torch.bfloat16 if case.device == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=case.device, dtype=kind) for _ in "ab")

    def run() -> None:
        for _ in range(GEMMS):
            torch.mm(a, b)

    return run


def gemm_best(case: Case) -> Callable[[], None]:
    """The same through whichever library the engine prefers here."""
    from graftwork.training.packed.matmul import times

    kind = torch.bfloat16 if case.device == "cuda" else torch.float32
    a, b = (torch.randn(2048, 2048, device=case.device, dtype=kind) for _ in "ab")

    def run() -> None:
        for _ in range(GEMMS):
            times(a, b)

    return run


def bare(case: Case) -> Callable[[], None]:
    """The base model alone: what memory is measured against."""
    model = make_model(case)
    return lambda: model.eval() and None


GEMMS = 8
CANDIDATES: dict[str, Callable[[Case], Callable[[], None]]] = {
    "native": native,
    "native, one by one": lambda case: native(case, one_by_one=True),
    "native, exact": lambda case: native(case, company="exact"),
    "native, NF4": nf4,
    "native, NF4, one by one": lambda case: nf4(case, one_by_one=True),
    "Unsloth": unsloth,
    "Unsloth, NF4": lambda case: unsloth(case, packed=True),
    "TRL defaults": trl,
    "TRL without checkpointing": lambda case: trl(case, activation_checkpointing=False),
    "TRL best": lambda case: trl(case, activation_checkpointing=False, padding_free=True),
    "PEFT loop": peft,
    "gemm": gemm,
    "gemm, best": gemm_best,
    "base alone": bare,
}
TOGETHER = tuple(name for name in CANDIDATES if name.startswith("native"))
"""Candidates that train all jobs of a case; the others train one, and all jobs take so many times as long."""


def peak_mb(case: Case) -> float:
    """Of the process, or of the GPU."""
    if case.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    from graftwork.training.machine import peak_bytes

    return peak_bytes() / 2**20


def rounds(run: Callable[[], None], case: Case) -> Iterator[dict[str, float]]:
    """Measure one round for each line of standard input."""
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        if case.device == "cuda":
            torch.cuda.synchronize()
        yield {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "peak_mb": peak_mb(case),
        }


def main() -> None:
    """Prepare, warm up with one round, say so, and answer."""
    name, path = sys.argv[1:]
    warnings.simplefilter("ignore")
    case = Case(**json.loads(Path(path).read_text()))
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    run = CANDIDATES[name](case)
    run()
    print(json.dumps({"ready": name, "threads": torch.get_num_threads()}), file=answers, flush=True)
    for measured in rounds(run, case):
        print(json.dumps(measured), file=answers, flush=True)


if __name__ == "__main__":
    main()
