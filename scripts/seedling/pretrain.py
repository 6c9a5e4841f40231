"""Pre-training: a fixed number of seeded steps over the token stream; a stopped run goes on where it was.

Matrices inside the layers are trained with Muon (Keller Jordan et al., 2024,
https://kellerjordan.github.io/posts/muon/), everything else with AdamW: on a run this short that reaches a
lower loss than AdamW alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokens
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

SEED = 20260
SAY_EVERY = 20


@dataclass(frozen=True)
class Plan:
    """The whole run; changing anything here makes another model."""

    steps: int = 2000
    tokens_per_step: int = 4096
    row: int = 256
    long_row: int = 512
    long_from: float = 0.8  # the last part of the run has longer rows
    warmup: int = 60
    matrix_lr: float = 5e-3
    other_lr: float = 6e-3
    last_lr: float = 0.03  # as a share of the first
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    checkpoint_every: int = 100

    def row_at(self, step: int) -> int:
        """Tokens in a row at this step."""
        return self.row if step < self.long_from * self.steps else self.long_row

    def rate(self, step: int) -> float:
        """Share of the learning rate at this step: warm-up, then half a cosine."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.last_lr + (1 - self.last_lr) * 0.5 * (1 + math.cos(math.pi * done))


def config(vocab_size: int, eos: int, pad: int) -> Qwen3Config:
    """The architecture: Qwen3, 6 layers, 5.8 million weights."""
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        eos_token_id=eos,
        pad_token_id=pad,
        bos_token_id=None,
        dtype="float32",
    )


def optimizers(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers." in n)]
    return [
        torch.optim.Muon(
            matrices, lr=plan.matrix_lr, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=plan.other_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def loss_of(model: Qwen3ForCausalLM, rows: Tensor) -> Tensor:
    """Mean cross entropy of the next token, in nats; rows [batch, tokens]."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


class Run:
    """The state of a run: weights, optimizers, step, seconds; kept in one checkpoint file."""

    def __init__(self, plan: Plan, model: Qwen3ForCausalLM, checkpoint: Path) -> None:
        self.plan, self.model, self.checkpoint = plan, model, checkpoint
        self.optimizers = optimizers(model, plan)
        self.step, self.seconds = 0, 0.0
        if checkpoint.exists():
            state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Write the checkpoint beside the old one, then replace it."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        fresh = self.checkpoint.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(self.checkpoint)

    def advance(self, rows: Tensor) -> tuple[float, float]:
        """One optimizer step; returns the loss and the gradient's norm."""
        start = time.monotonic()
        for optimizer, lr in zip(self.optimizers, (self.plan.matrix_lr, self.plan.other_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * self.plan.rate(self.step)
        loss = loss_of(self.model, rows)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.seconds += time.monotonic() - start
        return loss.item(), norm.item()


def pretrain(
    stream: Path, folder: Path, work: Path, special: dict[str, int], plan: Plan, say: Callable[[str], None]
) -> Run:
    """Train to the plan's last step, then write the model folder."""
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    ids = tokens.load(stream)
    if len(ids) < plan.steps * plan.tokens_per_step:
        needed = plan.steps * plan.tokens_per_step
        raise ValueError(f"the stream has {len(ids)} tokens, the plan needs {needed}")
    model = Qwen3ForCausalLM(config(special["size"], special["eos"], special["pad"])).train()
    run = Run(plan, model, work / "checkpoint.pt")
    with (work / "losses.jsonl").open("a") as log:
        while run.step < plan.steps:
            at = run.step * plan.tokens_per_step
            piece = np.array(ids[at : at + plan.tokens_per_step], dtype=np.int64)
            rows = torch.from_numpy(piece).reshape(-1, plan.row_at(run.step))
            loss, norm = run.advance(rows)
            log.write(json.dumps({"step": run.step, "loss": round(loss, 4), "norm": round(norm, 3)}) + "\n")
            if run.step % SAY_EVERY == 0:
                log.flush()
                say(f"step {run.step}/{plan.steps} loss {loss:.3f} norm {norm:.2f} {run.seconds:.0f} s")
            if run.step % plan.checkpoint_every == 0 or run.step == plan.steps:
                run.save()
    export(model, folder, special)
    return run


def export(model: Qwen3ForCausalLM, folder: Path, special: dict[str, int]) -> None:
    """Write config, generation config and the weights in bfloat16."""
    stored = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
    stored.load_state_dict(model.state_dict())
    stored.config.dtype = "bfloat16"
    stored.config.use_cache = True
    stored.generation_config = GenerationConfig(
        eos_token_id=special["eos"], pad_token_id=special["pad"], do_sample=False, max_new_tokens=256
    )
    stored.save_pretrained(folder)
