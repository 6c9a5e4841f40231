"""Build the base model `seedling` from nothing: corpus, tokenizer, pre-training, measurement.

    python scripts/seedling/build.py

Takes about half an hour on two idle cores. Intermediate files go to build/seedling; a stopped run goes on
from its last checkpoint when started again. `--plan-steps` makes a shorter run for trying things out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import corpus
import tokens
import train_tokenizer
from pretrain import Plan, pretrain

ROOT = Path(__file__).parents[2]


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, flush=True)


def prepare(folder: Path, work: Path) -> None:
    """Corpus, tokenizer and token streams, unless they are there."""
    done = work / "corpus.sha256"
    if done.exists():
        return
    digest = corpus.build(work / "corpus.jsonl")
    documents = corpus.read(work / "corpus.jsonl")
    tokenizer = train_tokenizer.train(documents, folder)
    tokens.save(work / "train.npy", tokens.training_stream(documents, tokenizer))
    for kind in ("prose", "chat"):
        tokens.save(work / f"valid_{kind}.npy", tokens.held_out_stream(documents, tokenizer, kind))
    done.write_text(digest)
    say(f"corpus {digest[:12]}, {len(documents)} documents")


def main() -> None:
    """Run every stage in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "src/graftwork/models/seedling")
    parser.add_argument("--work", type=Path, default=ROOT / "build/seedling")
    parser.add_argument("--plan-steps", type=int, default=Plan.steps)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    prepare(options.folder, options.work)
    vocabulary = train_tokenizer.load(options.folder).get_vocab()
    special = {
        "size": len(vocabulary),
        "eos": vocabulary[train_tokenizer.IM_END],
        "pad": vocabulary[train_tokenizer.PAD],
    }
    plan = Plan(steps=options.plan_steps)
    run = pretrain(options.work / "train.npy", options.folder, options.work, special, plan, say)
    # imported late: the report alone needs the finished model
    import report

    report.write(options.folder, options.work, run)
    weights = (options.folder / "model.safetensors").read_bytes()
    say(json.dumps({"weights_sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}))


if __name__ == "__main__":
    main()
