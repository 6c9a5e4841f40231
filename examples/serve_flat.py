"""Many adapters, one base model, one batch: the whole idea of the embedded engine in one flat loop.

    python examples/serve_flat.py --base BASE_DIR --adapter poet=DIR --adapter clerk=DIR \
        poet:"Write a line about rain" clerk:"Sort this ticket" base:"Say something"

No HTTP, no threads, no queue: read ``graftwork.serving.embedded`` for those. What is left is what happens in
every iteration of a serving engine:

1. each running sequence names the tokens it wants computed: its whole prompt first, then one token a turn;
2. all of them go through the model in ONE row, each token with its own adapter, each sequence for itself;
3. every sequence draws its next token from its own last position; the finished leave, and others may join.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from graftwork.serving.embedded import sampler
from graftwork.serving.embedded.adapters import Adapter, read_adapter
from graftwork.serving.embedded.batch import Segment, order
from graftwork.serving.embedded.kv import KVCache, Lane
from graftwork.serving.embedded.model import BaseModel
from graftwork.serving.wire.backend import Sampling
from graftwork.serving.wire.codec import TokenizerCodec


@dataclass(eq=False)
class Sequence:
    """One question, and its answer as far as it has got."""

    model: str
    adapter: Adapter | None
    tokens: list[int]
    prompt: int
    lane: Lane
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def wanted(self) -> Segment:
        """The tokens whose keys and values are not in the cache yet."""
        return Segment(self.lane, self.tokens[self.lane.length :], decode=len(self.tokens) > self.prompt)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answer questions for several adapters in one batch.")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=DIR", help="a PEFT adapter")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--at-once", type=int, default=4, help="sequences in the batch; the others wait")
    parser.add_argument("questions", nargs="+", metavar="MODEL:QUESTION")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    # The frozen base. Loading it wraps every linear layer, so that adapters can be mixed in token by token.
    model = BaseModel(asked.base, device, dtype)
    codec = TokenizerCodec(asked.base)
    cache = KVCache(model.kv, model.states)

    # Adapters are read and checked against the base: shapes, ranks, finite numbers. "base" needs none.
    adapters: dict[str, Adapter | None] = {"base": None}
    for given in asked.adapter:
        name, _, folder = given.partition("=")
        adapters[name] = read_adapter(name, Path(folder), model.adaptable, dtype, device)

    # Questions become tokens through the same chat template that training uses.
    how = Sampling(max_tokens=asked.max_tokens, temperature=asked.temperature)
    waiting: list[tuple[str, list[int]]] = []
    for question in asked.questions:
        name, _, text = question.partition(":")
        if name not in adapters:
            print(f"there is no model {name!r}; there are {', '.join(adapters)}", file=sys.stderr)
            return 2
        text = codec.render([{"role": "user", "content": text}], None)
        waiting.append((name, codec.encode(text, special=False)))

    running: list[Sequence] = []
    while waiting or running:
        # Join: whoever waits, as soon as there is a place, in the middle of the others' answers.
        while waiting and len(running) < asked.at_once:
            name, tokens = waiting.pop(0)
            lane = cache.open(len(tokens) + 1)
            running.append(Sequence(name, adapters[name], tokens, len(tokens), lane))

        # Room in the cache first (rows may move), then the plan: one token of those that answer, whole
        # prompts of those that have just come, sorted so that rows of one slab stand side by side.
        for sequence in running:
            cache.reserve(sequence.lane, len(sequence.tokens))
        plan = sorted(((s.wanted(), s) for s in running), key=lambda pair: order(pair[0]))
        segments = [segment for segment, _ in plan]

        # Compute all of it in one pass. The only place where sequences meet is the big products, row by row.
        with torch.inference_mode():
            hidden = model.compute(segments, [s.adapter for _, s in plan], cache.states)
            ends = torch.tensor([len(segment.tokens) for segment in segments]).cumsum(0) - 1
            logits = model.logits(hidden[ends.to(device)])
            drawn = sampler.draw(logits, [how] * len(plan), [sequence.chance for _, sequence in plan])

        # Leave: at the end token, at the limit, at the end of the context.
        for (_, sequence), token in zip(plan, drawn, strict=True):
            sequence.tokens.append(token)
            answer = sequence.tokens[sequence.prompt :]
            full = len(answer) >= how.max_tokens or len(sequence.tokens) >= model.context
            if token in codec.eos_ids or full:
                running.remove(sequence)
                cache.close(sequence.lane)
                print(f"{sequence.model}: {codec.decode(answer)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
