"""Train a LoRA adapter with Graftwork as a library, in one flat script. No server, no database.

    python examples/train_flat.py          # the built-in model and example data: a minute or two
    python examples/train_flat.py --data mine.jsonl --base Qwen/Qwen3-0.6B --out my-run

Reads the data, checks it, plans, writes a run folder, trains, and then asks the base model and the adapter
the same held-out questions with plain transformers + PEFT. The server does the same, on a machine it rents.
"""

import argparse
import hashlib
import os
from pathlib import Path

from graftwork import __version__
from graftwork.core.specs import DataRef, Hyperparameters, RunSpec, TrainingOptions
from graftwork.data import Renderer, answer, canonical, measure, question, split, validate
from graftwork.models import Catalogue, DataSize, base_ref, choose, locate, pin, plan
from graftwork.runs.documents import Metrics
from graftwork.runs.folder import prepare
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import open_transport
from graftwork.training import main as train

EXAMPLE = Path(__file__).parents[1] / "src/graftwork/data/examples/tickets.train.jsonl"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, default=EXAMPLE)
parser.add_argument("--base", default="seedling", help="seedling, a hub id, or the absolute path of a folder")
parser.add_argument(
    "--out", type=Path, default=Path("run"), help="the run folder; given again, the run goes on"
)
parser.add_argument("--epochs", type=int, default=None)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--ask", type=int, default=5, help="held-out questions to ask in the end")
given = parser.parse_args()

# 1. The base model: its entry in the catalogue, and its files (downloaded if it is on the hub).
cache = Path.home() / ".cache/graftwork/models"
os.environ["GRAFTWORK_CACHE"] = str(cache)  # the trainer looks there too
entry = pin(Catalogue(allow=["*"], cache=cache).get(given.base), cache)
folder = locate(entry, cache)
renderer = Renderer.load(folder)
print(f"{entry.name}: {entry.parameters / 1e6:.1f} M parameters, revision {entry.revision[:12]}")

# 2. The data: any format in, every problem at once, canonical rows out.
report = validate(
    given.data.read_bytes(), filename=given.data.name, renderer=renderer, max_length=entry.context
)
for finding in report.findings:
    print(f"line {finding.line}: {finding.message} {finding.fix}")
if not report.ok:
    raise SystemExit(2)
rows, held_out = split(report.rows_canonical(), share=0.1, seed=given.seed)
for text, learnt in report.preview[0].pieces if report.preview else ():
    print(f"  {'learnt' if learnt else '      '} | {text!r}")

# 3. The plan: numbers for everything automatic, with reasons, and what it will cost in memory and time.
train_size, valid_size = (measure(part, renderer, entry.context) for part in (rows, held_out))
size = DataSize(
    rows=train_size.rows,
    tokens=train_size.tokens,
    labelled=train_size.labelled,
    longest=train_size.longest,
    valid_rows=valid_size.rows,
    valid_tokens=valid_size.tokens,
    valid_longest=valid_size.longest,
)
options = TrainingOptions()
schedule = choose(Hyperparameters(n_epochs=given.epochs or "auto"), options, entry, size)
for name, why in schedule.explained.items():
    print(f"  {name}: {why}")
print("  " + "\n  ".join(plan(entry, schedule, options.lora, size).why))


# 4. The run folder: everything a trainer needs. Writing the same run again changes nothing.
def reference(name: str, data: bytes) -> DataRef:
    return DataRef(path=f"data/{name}.jsonl", sha256=hashlib.sha256(data).hexdigest(), rows=data.count(b"\n"))


training, validation = canonical(rows), canonical(held_out)
spec = RunSpec(
    job_id="ftjob-flat",
    base=base_ref(entry),
    train=reference("train", training),
    valid=reference("valid", validation) if held_out else None,
    lora=options.lora,
    schedule=schedule,
    seed=given.seed,
    code_version=__version__,
)
transport = open_transport(str(given.out))
prepare(transport, spec, training, validation if held_out else None)

# 5. Train. Ctrl-C pauses: the next call resumes from the checkpoint, on the same curve.
reader = RunReader(transport)
if train([str(given.out)]) != 0:
    raise SystemExit("The trainer failed; see log/ in the run folder.")
fence = reader.attempts()[-1]
result = reader.result(fence)
assert result is not None
if result.adapter is None:
    raise SystemExit(f"{result.outcome}: {result.reason or (result.error and result.error.message)}")

# 6. What it learnt.
for event in reader.events(fence)[0]:
    if isinstance(event, Metrics) and event.valid_loss is not None:
        print(f"step {event.step:4d}  loss {event.loss:.3f}  held-out loss {event.valid_loss:.3f}")
if result.valid_loss is not None:
    print(f"held-out loss {result.base_valid_loss:.3f} -> {result.valid_loss:.3f} (step {result.best_step})")
print(f"{result.tokens} tokens in {result.seconds:.0f} s; the adapter is {given.out / result.adapter.dir}")

# 7. Ask both, without Graftwork: the adapter is an ordinary PEFT adapter.
import torch  # noqa: E402 - nothing above needs it
from peft import PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
model = PeftModel.from_pretrained(base, given.out / result.adapter.dir).eval()


def reply(prompt: list[int]) -> str:
    with torch.no_grad():
        said = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=sorted(renderer.eos_ids),
            pad_token_id=min(renderer.eos_ids),
        )
    return renderer.decode(said[0, len(prompt) :].tolist()).strip()


chats = [row for row in held_out if "messages" in row]
right = 0
for row in chats[: given.ask]:
    prompt = renderer.tokenize(renderer.render_prompt(question(row), row.get("tools")))
    tuned = reply(prompt)
    with model.disable_adapter():
        plain = reply(prompt)
    right += tuned == answer(row).strip()
    print(f"\nasked    {question(row)[-1]['content']}\nwanted   {answer(row)}")
    print(f"base     {plain}\nadapter  {tuned}")
print(f"\n{right} of {len(chats[: given.ask])} answers are exactly as wanted.")
