"""Measure the finished model against the n-gram models on the held-out documents; write pretraining.json."""

from __future__ import annotations

import datetime
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

import corpus
import numpy as np
import tokens
import torch
import train_tokenizer
from ngram import Ngrams
from pretrain import SEED, Run
from transformers import Qwen3ForCausalLM

ROW = 512


@torch.no_grad()
def model_losses(folder: Path, ids: np.ndarray) -> np.ndarray:
    """Loss in nats of every token of the rows of a stream but their first: [rows, ROW - 1]."""
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = torch.from_numpy(np.array(ids[: len(ids) // ROW * ROW], dtype=np.int64)).reshape(-1, ROW)
    found: list[torch.Tensor] = []
    for batch in rows.split(8):
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
        )
        found.append(loss.reshape(len(batch), -1))
    return torch.cat(found).numpy()


def compare(folder: Path, ngrams: Ngrams, ids: np.ndarray) -> dict[str, float | int]:
    """Mean losses of the three models on the same tokens: all but the first two of every row."""
    mine = model_losses(folder, ids)[:, 1:]
    whole = np.asarray(ids[: len(ids) // ROW * ROW]).astype(np.int64)
    unigram, trigram = ngrams.losses(whole)
    kept = (np.arange(2, len(whole)) % ROW) >= 2
    return {
        "tokens": int(mine.size),
        "seedling": round(float(mine.mean()), 4),
        "unigram": round(float(unigram[kept].mean()), 4),
        "trigram": round(float(trigram[kept].mean()), 4),
    }


def together(parts: list[dict[str, float | int]]) -> dict[str, float | int]:
    """Token-weighted means over the parts."""
    total = sum(part["tokens"] for part in parts)
    names = ("seedling", "unigram", "trigram")
    means = {name: round(sum(p[name] * p["tokens"] for p in parts) / total, 4) for name in names}
    return {"tokens": total, **means}


def count(documents: list[corpus.Document], split: str, kind: str) -> int:
    """Documents of one kind on one side."""
    return sum(d.kind == kind and d.split == split for d in documents)


def write(folder: Path, work: Path, run: Run) -> None:
    """Measure and write `pretraining.json` into the model's folder."""
    documents = corpus.read(work / "corpus.jsonl")
    tokenizer = train_tokenizer.load(folder)
    ngrams = Ngrams(tokens.once(documents, tokenizer), tokenizer.get_vocab_size())
    kinds = ("prose", "chat")
    parts = {kind: compare(folder, ngrams, tokens.load(work / f"valid_{kind}.npy")) for kind in kinds}
    facts = {
        "date": datetime.date.today().isoformat(),
        "seed": SEED,
        "plan": asdict(run.plan),
        "steps": run.step,
        "tokens_seen": run.step * run.plan.tokens_per_step,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "corpus": {
            "sha256": (work / "corpus.sha256").read_text(),
            "python": platform.python_version(),
            "train_documents": {kind: count(documents, "train", kind) for kind in kinds},
            "held_out_documents": {kind: count(documents, "valid", kind) for kind in kinds},
            "stream_tokens": len(tokens.load(work / "train.npy")),
            "prose_passes": tokens.PROSE_PASSES,
        },
        "held_out_loss_nats_per_token": {"all": together(list(parts.values())), **parts},
        "machine": f"{os.cpu_count()} cores of an x86-64 CPU, shared with other work; no GPU",
        "wall_minutes": round(run.seconds / 60, 1),
    }
    (folder / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n")
