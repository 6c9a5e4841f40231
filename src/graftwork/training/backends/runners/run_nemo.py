"""Megatron Bridge on rows that are tokens already. Runs in its environment: ``… CONFIG``."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from graft_events import memory_mb, say  # it lies beside this file
from megatron.bridge import AutoBridge
from megatron.bridge.peft.canonical_lora import CanonicalLoRA
from megatron.bridge.training.callbacks import Callback
from megatron.bridge.training.config import (
    CheckpointConfig,
    ConfigContainer,
    DatasetBuildContext,
    DatasetProvider,
    LoggerConfig,
    RNGConfig,
    SchedulerConfig,
    TrainingConfig,
)
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.pretrain import pretrain
from megatron.bridge.training.tokenizers.config import TokenizerConfig
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from safetensors.torch import save_file

PREFIX = "base_model.model."


class Rows(torch.utils.data.Dataset):
    """Rows at one length, as Megatron's GPT step wants them: a label stands where it is predicted."""

    def __init__(self, path: Path, length: int) -> None:
        self._rows = [json.loads(line) for line in path.read_text().splitlines()]
        self._length = length

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self._rows[index]
        tokens, labels = row["input_ids"], [*row["labels"][1:], -100]
        pad = self._length - len(tokens)
        labels = torch.tensor(labels + [-100] * pad)
        return {
            "tokens": torch.tensor(tokens + [0] * pad),
            "labels": labels.clamp(min=0),
            "loss_mask": (labels >= 0).float(),
            "position_ids": torch.arange(self._length),
        }


@dataclass(kw_only=True)
class Provider(DatasetProvider):
    """Our rows, and nothing to evaluate on."""

    path: str
    seq_length: int

    def build_datasets(self, context: DatasetBuildContext) -> tuple[Any, None, None]:
        """See ``DatasetProvider``."""
        return Rows(Path(self.path), self.seq_length), None, None


class Graft(Callback):
    """Tells of steps, and brings the adapter out when it is due."""

    def __init__(self, bridge: AutoBridge, said: dict[str, Any]) -> None:
        self._bridge, self._said, self._saved = bridge, said, 0

    def on_train_step_end(self, context: Any) -> None:
        """One optimizer step."""
        step, total = context.state.train_state.step, self._said["train"]["train_iters"]
        losses = context.loss_dict or {}
        if leads() and losses:
            loss = float(next(iter(losses.values())))
            rate = float(context.optimizer.param_groups[0]["lr"])
            epoch = step * self._said["train"]["global_batch_size"] / self._said["rows"]["count"]
            norm = float(context.grad_norm or 0.0)
            say("step", step, epoch=epoch, loss=loss, grad_norm=norm, lr=rate, memory_mb=memory_mb())
        if step % self._said["out"]["every"] == 0 or step == total:
            self._export(context.model, step)

    def on_train_end(self, context: Any) -> None:
        """Over, or told to stop."""
        step = context.state.train_state.step
        if step and step != self._saved:
            self._export(context.model, step)
        if leads():
            say("end", step)

    def _export(self, model: list[Any], step: int) -> None:
        """Every rank takes part in gathering; one writes."""
        tensors = {
            (name if name.startswith(PREFIX) else PREFIX + name): tensor.contiguous()
            for name, tensor in self._bridge.export_adapter_weights(model, cpu=True, show_progress=False)
        }
        self._saved = step
        if leads():
            folder = Path(self._said["out"]["folder"]) / f"step-{step}"
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
            (folder / "adapter_config.json").write_text(json.dumps(self._said["peft"]))
            say("saved", step, path=str(folder))


def leads() -> bool:
    """Whether this process speaks for all."""
    return int(os.environ.get("RANK", "0")) == 0


def main(config: Path) -> None:
    """Import the base, train, export."""
    said = json.loads(config.read_text())
    base, rows = said["base"], said["rows"]
    rows["count"] = len(Path(rows["path"]).read_text().splitlines())
    if not Path(base["imported"]).exists() and leads():
        AutoBridge.import_ckpt(base["name"], base["imported"])
    bridge = AutoBridge.from_hf_pretrained(base["name"])
    model = bridge.to_megatron_provider(load_weights=False)
    model.seq_length = rows["length"]
    model.calculate_per_token_loss = True  # a step's loss is the mean over all of its labelled tokens
    container = ConfigContainer(
        model=model,
        train=TrainingConfig(**said["train"]),
        optimizer=OptimizerConfig(**said["optimizer"]),
        scheduler=SchedulerConfig(**said["scheduler"]),
        dataset=Provider(path=rows["path"], seq_length=rows["length"], **said["dataset"]),
        logger=LoggerConfig(**said["logger"]),
        tokenizer=TokenizerConfig(tokenizer_type="HuggingFaceTokenizer", tokenizer_model=base["name"]),
        checkpoint=CheckpointConfig(pretrained_checkpoint=base["imported"]),
        rng=RNGConfig(**said["rng"]),
        ddp=DistributedDataParallelConfig(use_distributed_optimizer=True),
        peft=CanonicalLoRA(**said["lora"]),
    )
    pretrain(container, forward_step, callbacks=[Graft(bridge, said)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
