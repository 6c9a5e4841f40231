"""Train the same adapter with Graftwork's native engine and with TRL's SFTTrainer, and compare step by step.

    python scripts/figures/trl_agreement.py [--base FOLDER] [--data FILE.jsonl] [--rows 96] [--epochs 2]

Same rows, order, LoRA start, schedule, clipping and AdamW, in fp32 on the CPU; TRL renders and labels the
rows itself (chat template, assistant_only_loss). Writes the figure and the numbers to docs/figures/, and the
table in docs/training.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from graftwork.core.specs import BaseRef, DataRef, LoraSpec, RunSpec, Schedule
from graftwork.data.rendering import Renderer
from graftwork.data.rows import Row, canonical, read_canonical
from graftwork.runs.documents import Metrics
from graftwork.runs.folder import prepare
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import StopSignal
from graftwork.training.packed.engine import PackedEngine
from graftwork.training.train_lora import Trainer

ROOT = Path(__file__).parents[2]
FIGURE = ROOT / "docs/figures/trl_agreement.svg"
NUMBERS = ROOT / "docs/figures/trl_agreement.json"
PAGE = ROOT / "docs/training.md"
SHOWN = 7
"""Steps in the table."""


@dataclass(frozen=True)
class Step:
    """One optimizer step as a trainer reports it."""

    loss: float
    grad_norm: float
    lr: float


@dataclass(frozen=True)
class Comparison:
    """Two curves of the same run."""

    native: list[Step]
    trl: list[Step]

    def deviation(self, field: str) -> float:
        """The largest relative difference of a field over all steps; absolute where TRL's value is 0."""
        pairs = [(getattr(a, field), getattr(b, field)) for a, b in zip(self.native, self.trl, strict=True)]
        return max(abs(a - b) / (abs(b) or 1.0) for a, b in pairs)


def make_spec(data: bytes, rows: int, epochs: int, batch_size: int, accumulation: int) -> RunSpec:
    """A run with warm-up, decay, clipping and accumulation; without dropout, which TRL draws otherwise."""
    schedule = Schedule(
        n_epochs=epochs,
        batch_size=batch_size,
        accumulation=accumulation,
        learning_rate_multiplier=1.0,
        learning_rate=1e-3,
        warmup_ratio=0.1,
        decay="cosine",
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_length=512,
        eval_every=10_000,
        checkpoint_every=10_000,
        early_stopping=None,
        total_steps=epochs * rows // batch_size,
    )
    return RunSpec(
        job_id="ftjob-trl-agreement",
        base=BaseRef(name="base", repository="base", revision="0"),
        train=DataRef(path="data/train.jsonl", sha256=hashlib.sha256(data).hexdigest(), rows=rows),
        valid=None,
        lora=LoraSpec(rank=8, alpha=16, dropout=0.0),
        schedule=schedule,
        seed=42,
        code_version="trl-agreement",
    )


def compare(
    base: Path, rows: list[Row], epochs: int, batch_size: int = 8, accumulation: int = 2
) -> Comparison:
    """Train both; ``len(rows)`` must be a multiple of ``batch_size``."""
    data = canonical(rows)
    spec = make_spec(data, len(rows), epochs, batch_size, accumulation)
    with tempfile.TemporaryDirectory() as folder:
        transport = LocalTransport(Path(folder) / "run")
        prepare(transport, spec, data, None)
        trainer = Trainer(
            lambda _: (PackedEngine.load(base, torch.device("cpu")), Renderer.load(base)), StopSignal()
        )
        trainer.join(str(transport.root))
        (session,) = trainer.sessions
        start = {name: tensor.clone() for name, tensor in session.adapter.tensors().items()}
        course = session.course
        order = [row for step in range(course.total_steps) for part in course.rows(step) for row in part]
        trainer.run()
        events, _ = RunReader(transport).events(1)
        native = [Step(e.loss, e.grad_norm, e.lr) for e in events if isinstance(e, Metrics)]
        trl = run_trl(base, [rows[row] for row in order], start, session.adapter.targets, spec, Path(folder))
    return Comparison(native, trl)


class Record(TrainerCallback):
    """Keeps what the trainer logs after each step."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def on_log(
        self, args: object, state: object, control: object, logs: dict[str, float], **_: object
    ) -> None:
        """TRL's own report of a step."""
        if "loss" in logs:
            self.steps.append(
                Step(float(logs["loss"]), float(logs["grad_norm"]), float(logs["learning_rate"]))
            )


def peft_model(
    base: Path, start: dict[str, torch.Tensor], targets: tuple[str, ...], spec: RunSpec
) -> PeftModel:
    """The base with these LoRA weights, as plain PEFT has it."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(
            r=spec.lora.rank,
            lora_alpha=int(spec.lora.alpha),
            target_modules=list(targets),
            task_type="CAUSAL_LM",
        ),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(start[name.replace(".default.", ".")])
    assert isinstance(model, PeftModel)
    return model


def run_trl(
    base: Path,
    rows: list[Row],
    start: dict[str, torch.Tensor],
    targets: tuple[str, ...],
    spec: RunSpec,
    folder: Path,
) -> list[Step]:
    """The same with TRL: rows in this order, one pass, from these LoRA weights."""
    schedule = spec.schedule
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        train_sampling_strategy="sequential",
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
        assistant_only_loss=True,
        seed=spec.seed,
        logging_steps=1,
        logging_first_step=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    record = Record()
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = SFTTrainer(
        model=peft_model(base, start, targets, spec),
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"messages": row["messages"]} for row in rows]),
        callbacks=[record],
    )
    trainer.train()
    return record.steps


def figure(result: Comparison, title: str, theirs: str = "TRL SFTTrainer") -> str:
    """Loss of both over steps, and their relative difference below on a logarithmic scale, as SVG."""
    width, left, right = 720, 64, 16
    top, upper, gap, lower = 40, 220, 46, 120
    steps = len(result.native)
    high = max(step.loss for step in result.trl) * 1.05

    def x(step: int) -> float:
        return left + (width - left - right) * step / max(1, steps - 1)

    def y(loss: float) -> float:
        return top + upper * (1 - loss / high)

    floor, ceiling = -9.0, -3.0
    base = top + upper + gap

    def z(relative: float) -> float:
        exponent = torch.tensor(max(relative, 10**floor)).log10().item()
        return base + lower * (ceiling - exponent) / (ceiling - floor)

    def rule(at: float, label: str) -> str:
        return (
            f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>'
            f'<line x1="{left}" x2="{width - right}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e5e5e5"/>'
        )

    line = " ".join(f"{x(at):.1f},{y(step.loss):.1f}" for at, step in enumerate(result.native))
    dots = "".join(
        f'<circle cx="{x(at):.1f}" cy="{y(step.loss):.1f}" r="3.2"/>' for at, step in enumerate(result.trl)
    )
    pairs = zip(result.native, result.trl, strict=True)
    differences = " ".join(
        f"{x(at):.1f},{z(abs(a.loss - b.loss) / b.loss):.1f}" for at, (a, b) in enumerate(pairs)
    )
    ticks = "".join(rule(z(10.0**power), f"1e{power}") for power in (-9, -7, -5, -3))
    spacing = 1 if high > 2 else 0.2
    ticks += "".join(rule(y(at * spacing), f"{at * spacing:g}") for at in range(int(high / spacing) + 1))
    height = base + lower + 36
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12" fill="#333">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="{left}" y="24" font-size="14">{escape(title)}</text>\n{ticks}\n'
        f'<g fill="none" stroke="#d9480f" stroke-width="1.2">{dots}</g>\n'
        f'<polyline points="{line}" fill="none" stroke="#1c7ed6" stroke-width="1.6"/>\n'
        f'<polyline points="{differences}" fill="none" stroke="#555" stroke-width="1.2"/>\n'
        f'<text x="{width - right}" y="{top + 16}" text-anchor="end">'
        f'<tspan fill="#1c7ed6">line: native</tspan> '
        f'<tspan fill="#d9480f">circles: {theirs}</tspan></text>\n'
        f'<text x="{left}" y="{base - 10}">relative difference of the losses</text>\n'
        f'<text x="{width / 2}" y="{height - 10}" text-anchor="middle">optimizer step (1 to {steps})</text>\n'
        "</svg>\n"
    )


def table(result: Comparison, largest: dict[str, float]) -> str:
    """Some steps of both, and the largest deviations of all, in Markdown."""
    steps = len(result.native)
    lines = [
        "| step | loss, native | loss, TRL | gradient norm, native | gradient norm, TRL |",
        "|---|---|---|---|---|",
    ]
    for shown in range(SHOWN):
        at = (steps - 1) * shown // (SHOWN - 1)
        a, b = result.native[at], result.trl[at]
        lines.append(f"| {at + 1} | {a.loss:.6f} | {b.loss:.6f} | {a.grad_norm:.5f} | {b.grad_norm:.5f} |")
    loss, norm = f"{largest['loss']:.1e}", f"{largest['grad_norm']:.1e}"
    lines.append(f"| all {steps}, largest relative difference | | {loss} | | {norm} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare, draw, and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, default=ROOT / "src/graftwork/models/seedling")
    parser.add_argument("--data", type=Path, default=ROOT / "src/graftwork/data/examples/tickets.train.jsonl")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = read_canonical(given.data.read_bytes())[: given.rows]
    result = compare(given.base, rows, given.epochs)
    largest = {field: result.deviation(field) for field in ("loss", "grad_norm", "lr")}
    title = f"{given.base.name} on {given.data.name}: native against TRL, {len(result.native)} steps in fp32"
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_text(figure(result, title))
    steps = [
        {"step": at, "native": vars(a), "trl": vars(b)}
        for at, (a, b) in enumerate(zip(result.native, result.trl, strict=True), 1)
    ]
    NUMBERS.write_text(
        json.dumps({"title": title, "largest_deviation": largest, "steps": steps}, indent=1) + "\n"
    )
    begin, end = "<!-- trl: begin -->\n", "<!-- trl: end -->"
    page = PAGE.read_text()
    head, rest = page.split(begin)
    PAGE.write_text(head + begin + table(result, largest) + end + rest.split(end)[1])
    for field, value in largest.items():
        print(f"{field}: largest relative deviation {value:.2e}")


if __name__ == "__main__":
    main()
