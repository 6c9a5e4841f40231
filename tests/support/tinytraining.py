"""A base model of a few thousand weights, small data sets, and run folders of them: for trainer tests."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

from graftwork.core.specs import BaseRef, DataRef, LoraSpec, RunSpec, Schedule
from graftwork.data.rows import canonical
from graftwork.runs.folder import prepare
from graftwork.runs.transport import LocalTransport

TEMPLATE = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.role == 'assistant' -%}{% generation %}{{- m.content + '<|im_end|>' -}}{% endgeneration %}"
    "{%- else -%}{{- m.content + '<|im_end|>' -}}{%- endif -%}{{- '\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
WORDS = """red green blue white black cat dog bird fish horse
runs sleeps eats sings jumps now""".split()  # noqa: SIM905 - easier to read


def make_base(folder: Path) -> Path:
    """Write a random Qwen3 of 2 layers, its tokenizer and its ChatML template into ``folder``."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder.mkdir(parents=True)
    vocabulary = write_tokenizer(folder)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        initializer_range=0.2,
    )
    torch.manual_seed(7)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path) -> int:
    """Write a small BPE tokenizer and the ChatML template into ``folder``; returns the number of tokens."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|im_end|>",
                "pad_token": "<|pad|>",
            }
        )
    )
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return tokenizer.get_vocab_size()


def chat(question: str, answer: str) -> dict[str, object]:
    """A canonical chat row of one turn."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def make_rows(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Rows of differing length whose answer says the question backwards."""
    numbers = random.Random(seed)
    rows = []
    for _ in range(count):
        words = numbers.choices(WORDS, k=numbers.randint(1, 6))
        rows.append(chat(" ".join(words), " ".join(reversed(words))))
    return rows


def make_schedule(**changes: object) -> Schedule:
    """Two epochs of batches of 4, warmed up, cosine."""
    fields: dict[str, object] = {
        "n_epochs": 2,
        "batch_size": 4,
        "accumulation": 1,
        "learning_rate_multiplier": 1.0,
        "learning_rate": 0.01,
        "warmup_ratio": 0.1,
        "decay": "cosine",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "max_length": 128,
        "eval_every": 1000,
        "checkpoint_every": 1000,
        "early_stopping": None,
        "total_steps": 0,
    }
    return Schedule.model_validate({**fields, **changes})


def make_spec(
    train: bytes,
    valid: bytes | None = None,
    *,
    lora: LoraSpec | None = None,
    seed: int = 1,
    base: BaseRef | None = None,
    **changes: object,
) -> RunSpec:
    """A specification over canonical bytes. ``changes`` are of the specification, or of its schedule."""
    own = {name: value for name, value in changes.items() if name in RunSpec.model_fields}
    schedule = {name: value for name, value in changes.items() if name not in own}
    return RunSpec(
        job_id="ftjob-test",
        base=base or BaseRef(name="tiny", repository="tiny", revision="0"),
        train=_reference("train", train),
        valid=_reference("valid", valid) if valid is not None else None,
        lora=lora or LoraSpec(rank=4, alpha=8, dropout=0.1),
        schedule=make_schedule(**schedule),
        seed=seed,
        code_version="test",
        **own,  # type: ignore[arg-type]
    )


def make_run(
    folder: Path,
    rows: list[dict[str, object]] | None = None,
    valid: list[dict[str, object]] | None = None,
    **changes: object,
) -> str:
    """A prepared run folder; its path, which is its URI. ``changes`` are of ``make_spec``; ``start_files``
    are those of a ``start``."""
    start = changes.pop("start_files", None)
    train = canonical(make_rows(20) if rows is None else rows)
    held = canonical(valid) if valid is not None else None
    prepare(LocalTransport(folder), make_spec(train, held, **changes), train, held, start)  # type: ignore[arg-type]
    return str(folder)


def _reference(name: str, data: bytes) -> DataRef:
    return DataRef(path=f"data/{name}.jsonl", sha256=hashlib.sha256(data).hexdigest(), rows=data.count(b"\n"))
