"""Unsloth on rows that are tokens already. Runs in its environment: ``… CONFIG ROWS``."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def main(config: Path, rows: Path) -> None:
    """Unsloth's model and adapter, transformers' loop, our callback."""
    # one GPU: transformers' loop would cut a batch for each that it sees
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    unsloth: Any = importlib.import_module("unsloth")  # first: it patches what is imported after it
    from graft_events import Events  # pyright: ignore[reportMissingImports] - it lies beside this file
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    said = json.loads(config.read_text())
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(**said["from_pretrained"])
    model = unsloth.FastLanguageModel.get_peft_model(model, **said["get_peft_model"])
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**said["arguments"]),
        train_dataset=[json.loads(line) for line in rows.read_text().splitlines()],  # pyright: ignore
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100, pad_to_multiple_of=8),
        callbacks=[Events()],
    )
    trainer.train(**said["train"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
