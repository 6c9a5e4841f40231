"""Train the same adapter by DPO with Graftwork's native engine and with TRL's DPOTrainer, step by step.

    python scripts/figures/dpo_agreement.py [--base FOLDER] [--data FILE.jsonl] [--rows 96] [--epochs 3]

Same pairs, order, LoRA start, beta, schedule, clipping and AdamW, in fp32 on the CPU; TRL tokenizes prompt
and answers itself and takes its own reference (its copy of the adapter as it began). Writes the figure and
the numbers to docs/figures/, and the table in docs/methods.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl_agreement import Comparison, Record, Step, figure, make_spec, peft_model, table

from graftwork.core.specs import PreferenceOptions, RunSpec
from graftwork.data.rendering import Renderer
from graftwork.data.rows import Row, canonical, read_canonical
from graftwork.runs.documents import Metrics
from graftwork.runs.folder import prepare
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import StopSignal
from graftwork.training.solo import SoloEngine
from graftwork.training.train_lora import Trainer

ROOT = Path(__file__).parents[2]
FIGURE = ROOT / "docs/figures/dpo_agreement.svg"
NUMBERS = ROOT / "docs/figures/dpo_agreement.json"
PAGE = ROOT / "docs/methods.md"


def compare(
    base: Path, rows: list[Row], epochs: int, batch_size: int = 8, accumulation: int = 2
) -> Comparison:
    """Train both; ``len(rows)`` must be a multiple of ``batch_size``."""
    data = canonical(rows)
    spec = make_spec(data, len(rows), epochs, batch_size, accumulation).model_copy(
        update={"method": "dpo", "preference": PreferenceOptions(beta=0.1)}
    )
    renderer = Renderer.load(base)
    with tempfile.TemporaryDirectory() as folder:
        transport = LocalTransport(Path(folder) / "run")
        prepare(transport, spec, data, None)
        trainer = Trainer(lambda _: (SoloEngine.load(base, torch.device("cpu")), renderer), StopSignal())
        trainer.join(str(transport.root))
        (session,) = trainer.sessions
        start = {name: tensor.clone() for name, tensor in session.adapter.tensors().items()}
        course = session.course
        order = [row for step in range(course.total_steps) for part in course.rows(step) for row in part]
        trainer.run()
        events, _ = RunReader(transport).events(1)
        native = [Step(e.loss, e.grad_norm, e.lr) for e in events if isinstance(e, Metrics)]
        pairs = [texts(rows[row], renderer) for row in order]
        trl = run_trl(base, pairs, start, session.adapter.targets, spec, Path(folder))
    return Comparison(native, trl)


def texts(row: Row, renderer: Renderer) -> dict[str, str]:
    """A pair as the texts that TRL tokenizes: it appends the end-of-turn token itself."""
    return {
        "prompt": renderer.render_prompt(row["input"]["messages"], row["input"].get("tools")),
        "chosen": row["preferred_output"][0]["content"],
        "rejected": row["non_preferred_output"][0]["content"],
    }


def run_trl(
    base: Path,
    pairs: list[dict[str, str]],
    start: dict[str, torch.Tensor],
    targets: tuple[str, ...],
    spec: RunSpec,
    folder: Path,
) -> list[Step]:
    """The same with TRL: pairs in this order, one pass, from these LoRA weights."""
    schedule, preference = spec.schedule, spec.preference or PreferenceOptions()
    config = DPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        beta=preference.beta,
        num_train_epochs=1,
        per_device_train_batch_size=schedule.batch_size // schedule.accumulation,
        gradient_accumulation_steps=schedule.accumulation,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type=schedule.decay,
        warmup_steps=-(-schedule.total_steps // 10),
        weight_decay=schedule.weight_decay,
        max_grad_norm=schedule.max_grad_norm,
        optim="adamw_torch",
        max_length=schedule.max_length,
        seed=spec.seed,
        logging_steps=1,
        logging_first_step=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    record = Record()
    DPOTrainer(
        model=peft_model(base, start, targets, spec),
        args=config,
        processing_class=AutoTokenizer.from_pretrained(base),
        train_dataset=Dataset.from_list(pairs),
        callbacks=[record],
    ).train()
    return record.steps


def main() -> None:
    """Compare, draw, and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, default=ROOT / "src/graftwork/models/seedling")
    parser.add_argument("--data", type=Path, default=ROOT / "src/graftwork/data/examples/manners.train.jsonl")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = read_canonical(given.data.read_bytes())[: given.rows]
    result = compare(given.base, rows, given.epochs)
    largest = {field: result.deviation(field) for field in ("loss", "grad_norm", "lr")}
    title = f"DPO, {given.base.name} on {given.data.name}: native against TRL, {len(result.native)} steps"
    FIGURE.write_text(figure(result, title, "TRL DPOTrainer"))
    steps = [
        {"step": at, "native": vars(a), "trl": vars(b)}
        for at, (a, b) in enumerate(zip(result.native, result.trl, strict=True), 1)
    ]
    NUMBERS.write_text(
        json.dumps({"title": title, "largest_deviation": largest, "steps": steps}, indent=1) + "\n"
    )
    begin, end = "<!-- dpo: begin -->\n", "<!-- dpo: end -->"
    head, rest = PAGE.read_text().split(begin)
    PAGE.write_text(head + begin + table(result, largest) + end + rest.split(end)[1])
    for field, value in largest.items():
        print(f"{field}: largest relative deviation {value:.2e}")


if __name__ == "__main__":
    main()
