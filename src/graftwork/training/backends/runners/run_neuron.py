"""optimum-neuron on rows that are tokens already. Runs in its environment: ``… CONFIG ROWS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PAD = {"input_ids": 0, "attention_mask": 0, "labels": -100}


def main(config: Path, rows: Path) -> None:
    """Its sharded model, its trainer, our callback."""
    from datasets import Dataset
    from graft_events import Events, say  # pyright: ignore[reportMissingImports] - it lies beside this file
    from optimum.neuron import NeuronTrainer, NeuronTrainingArguments  # pyright: ignore
    from optimum.neuron.models.training import NeuronModelForCausalLM  # pyright: ignore
    from optimum.neuron.models.training.checkpointing import (  # pyright: ignore
        consolidate_model_parallel_checkpoints_to_unified_checkpoint as consolidate,
    )
    from optimum.neuron.peft import get_peft_model  # pyright: ignore
    from peft import LoraConfig

    said = json.loads(config.read_text())
    arguments = NeuronTrainingArguments(**said["arguments"])
    model = NeuronModelForCausalLM.from_pretrained(said["model"]["name"], arguments.trn_config)
    lora = LoraConfig(**said["lora"])
    model = get_peft_model(model, lora)
    lines = [json.loads(line) for line in rows.read_text().splitlines()]

    class Whole(Events):
        """A checkpoint of several cores lies in pieces: its adapter is put together in PEFT's format."""

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero:
                if not (folder / "adapter_model.safetensors").exists():
                    consolidate(folder, folder)
                    (folder / "adapter_config.json").write_text(json.dumps(lora.to_dict(), default=list))
                say("saved", state.global_step, path=str(folder))

    trainer = NeuronTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([padded(line, said["model"]["length"]) for line in lines]),
        callbacks=[Whole()],
    )
    trainer.train()


def padded(row: dict[str, list[int]], length: int) -> dict[str, list[int]]:
    """The row at the length of the compiled graph."""
    return {name: values + [PAD[name]] * (length - len(values)) for name, values in row.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
