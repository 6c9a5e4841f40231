"""TRL's trainers, configured from our specification and fed with our rows.

Each is made with a data set of placeholders, which TRL may prepare as it likes; the rows that are trained on
are tokenized already and come through the data loader, batch by batch as the run's course has them, into
TRL's own collator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset as Table
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import Method, PreferenceOptions, RunSpec
from graftwork.data.encoding import Encoded
from graftwork.training.dataset import Dataset

Json = dict[str, Any]
Optimizers = tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]

_PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
_KINDS: dict[Method, tuple[type[Trainer], type[Any], Json]] = {
    "sft": (SFTTrainer, SFTConfig, {"prompt": "a", "completion": "b"}),
    "cpt": (SFTTrainer, SFTConfig, {"prompt": "a", "completion": "b"}),
    "dpo": (DPOTrainer, DPOConfig, _PAIR),
    "orpo": (ORPOTrainer, ORPOConfig, _PAIR),
    "kto": (KTOTrainer, KTOConfig, {"prompt": "a", "completion": "b", "label": True}),
}


def make_trainer(
    spec: RunSpec,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    micro_batch: int,
    callback: TrainerCallback,
) -> Trainer:
    """TRL's trainer of the run's method, without an optimizer and without rows: see ``feed``.

    Raises:
        InvalidRequest: ``option_unsupported``, TRL has no such option.
    """
    kind, config, placeholder = _KINDS[spec.method]
    arguments = config(**_arguments(spec, folder, micro_batch, model.device.type), **_options(spec))
    trainer = kind(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Table.from_list([placeholder] * 2),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def feed(
    trainer: Trainer, features: Sequence[Json], batches: Sequence[Sequence[int]], optimizers: Optimizers
) -> None:
    """Give the trainer its rows, in this order of micro-batches, and what moves the adapter."""
    collate: Callable[[list[Json]], Json] = trainer.data_collator

    def rotated(rows: list[Json]) -> Json:
        """KTO estimates the divergence on answers to other questions of the same micro-batch."""
        if "completion_ids" in rows[0]:
            last = [rows[-1], *rows[:-1]]
            rows = [
                {**row, "KL_completion_ids": other["completion_ids"]}
                for row, other in zip(rows, last, strict=True)
            ]
        return collate(rows)

    loader: DataLoader[Json] = DataLoader(
        features,  # pyright: ignore[reportArgumentType] - a list is a map-style data set
        batch_sampler=list(batches),  # pyright: ignore[reportArgumentType]
        collate_fn=rotated,
    )
    trainer.get_train_dataloader = lambda: loader
    trainer.optimizer, trainer.lr_scheduler = optimizers


def features_of(method: Method, data: Dataset) -> list[Json]:
    """Each example as the method's collator takes it."""
    examples = [data.example(at) for at in range(data.examples)]
    match method:
        case "sft" | "cpt":
            return [
                {
                    "input_ids": row.tokens,
                    "labels": [
                        token if on else -100 for token, on in zip(row.tokens, row.labels, strict=True)
                    ],
                }
                for (row,) in examples
            ]
        case "kto":
            return [
                {"prompt_ids": asked, "completion_ids": answer, "label": wanted}
                for ((row,), wanted) in zip(examples, data.wanted, strict=True)
                for asked, (answer,) in [_cut(row)]
            ]
        case "dpo":
            return [
                {"prompt_ids": asked, "chosen_ids": chosen, "rejected_ids": rejected}
                for pair in examples
                for asked, (chosen, rejected) in [_cut(*pair)]
            ]
        case "orpo":
            return [_orpo(*pair) for pair in examples]


def _cut(*rows: Encoded) -> tuple[list[int], list[list[int]]]:
    """What all rows begin with before anything carries loss, and each row's rest up to its last label."""
    first = min(row.labels.index(True, 1) for row in rows)
    same = takewhile(
        lambda tokens: len(set(tokens)) == 1, zip(*(row.tokens[:first] for row in rows), strict=False)
    )
    length = sum(1 for _ in same)
    ends = [len(row.labels) - row.labels[::-1].index(True) for row in rows]
    return rows[0].tokens[:length], [row.tokens[length:end] for row, end in zip(rows, ends, strict=True)]


def _orpo(chosen: Encoded, rejected: Encoded) -> Json:
    asked, answers = _cut(chosen, rejected)
    found: Json = {"prompt_input_ids": asked, "prompt_attention_mask": [1] * len(asked)}
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        found[f"{name}_input_ids"] = asked + answer
        found[f"{name}_attention_mask"] = [1] * (len(asked) + len(answer))
        found[f"{name}_labels"] = [-100] * len(asked) + answer
    return found


def _arguments(spec: RunSpec, folder: Path, micro_batch: int, device: str) -> Json:
    schedule = spec.schedule
    return {
        "output_dir": str(folder),
        "use_cpu": device == "cpu",
        "bf16": device != "cpu",
        "gradient_checkpointing": device != "cpu",
        "per_device_train_batch_size": micro_batch,
        "learning_rate": schedule.learning_rate,
        "weight_decay": schedule.weight_decay,
        "max_grad_norm": schedule.max_grad_norm,
        "max_length": schedule.max_length,
        "neftune_noise_alpha": schedule.neftune_alpha,
        "remove_unused_columns": False,
        "seed": spec.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _options(spec: RunSpec) -> Json:
    """What the method itself may be told."""
    options = spec.preference or PreferenceOptions()
    if spec.method == "dpo" and options.label_smoothing:
        raise InvalidRequest(
            "TRL's DPO has no conservative label smoothing.",
            fix="Leave trainer out: the native trainer has it.",
            code="option_unsupported",
            param="graftwork.preference.label_smoothing",
        )
    match spec.method:
        case "dpo" | "orpo":
            return {"beta": options.beta}
        case "kto":
            return {
                "beta": options.beta,
                "desirable_weight": options.desirable_weight,
                "undesirable_weight": options.undesirable_weight,
            }
        case "sft" | "cpt":
            return {"packing": False}
