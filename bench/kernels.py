"""The trainer's compiled kernels against PyTorch's products and attention: ``python -m bench.kernels``.

Low-rank products of a step for several adapters at once, and attention of packed rows, both forward and
backward, by either on the same numbers, taking turns, on one thread. Figures are CPU seconds (other load does
not count), medians. Writes ``bench/results/kernels.json``.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench import save
from bench.serving import machine
from graftwork.core.specs import LoraSpec
from graftwork.data.rendering import Encoded
from graftwork.training.packed import attention
from graftwork.training.packed.attend import Attend
from graftwork.training.packed.bank import Banks, Group, Site
from graftwork.training.packed.cohort import cohorts
from graftwork.training.packed.layout import Stretch, pack
from graftwork.training.packed.lowrank import multiply, multiply_back
from graftwork.training.packed.shares import kernel, share, share_back
from graftwork.training.packed.where import Where
from graftwork.training.targets import Targets

TARGET = Path(__file__).parent / "results" / "kernels.json"
RUNS, RANK, CPU = 41, 16, torch.device("cpu")
GROUPS = {"query, key, value": (2, (2, 1, 1)), "gate, up": (2, (6, 6)), "down": (6, (2,))}
"""Inputs and outputs of a layer's groups of modules, in halves of the hidden size."""
Act = Callable[[], object]


def turns(ours: Act, theirs: Act) -> dict[str, float]:
    """Medians of both, in microseconds of CPU, and their ratio."""
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(RUNS + 3):
        for act, times in zip((ours, theirs), took, strict=True):
            began = time.process_time()
            act()
            if number >= 3:
                times.append(time.process_time() - began)
    mine, other = (1e6 * statistics.median(times) for times in took)
    return {"ours_us": round(mine), "torch_us": round(other), "times_faster": round(other / mine, 2)}


def low_rank(adapters: int, tokens: int, wide: int, outs: Sequence[int]) -> dict[str, float]:
    """So many adapters with so many tokens each, on modules of one input and these outputs."""
    sites = tuple(Site(f"l.{n}", wide, out) for n, out in enumerate(outs))
    group, banks = Group(sites), Banks([Group(sites)], CPU)
    targets = Targets(tuple(map(str, range(len(outs)))), (), tuple(site.name for site in sites), (), None)
    tenants = [banks.add(str(n), LoraSpec(rank=RANK, alpha=RANK), targets, n) for n in range(adapters)]
    row = Encoded([1] * (tokens + 1), [False] * tokens + [True], tokens + 1)
    (cohort,) = cohorts(pack([Stretch(tenant, [row]) for tenant in tenants], CPU).spans)
    own = cohort.bank.matrices(group.key, cohort.slots)
    assert own is not None
    x, dx = (torch.randn(adapters * tokens, wide) for _ in range(2))
    y = torch.randn(adapters * tokens, sum(outs))
    run = kernel(cohort, own, x, y)
    assert run is not None, "there is no C compiler here"
    return turns(
        lambda: share_back(run, cohort, own, y, x, share(run, cohort, own, x, y), dx),
        lambda: multiply_back(cohort, own, y, x, multiply(cohort, own, x, y), dx),
    )


def attend(rows: int, length: int) -> dict[str, float]:
    """Rows of one length, 8 heads on 4 of 64 numbers."""
    where = Where([length] * rows, [length * n for n in range(rows)], CPU)
    q, k, v = (torch.randn(rows * length, heads, 64) for heads in (8, 4, 4))
    slope = torch.randn_like(q)

    def ours() -> None:
        act = Attend.of(q, k, v, where, None, None)
        assert act is not None, "there is no C compiler here"
        out, kept = act.forward()
        act.backward(slope, out, kept[0])

    def theirs() -> None:
        out, kept = attention.lay(q, k, v, where, None, None)
        attention.lay_back(slope, (q, k, v, out), kept, where, None, None)

    return turns(ours, theirs)


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = ((32, 32, 128), (8, 128, 128), (8, 128, 512), (1, 1024, 512))
    result = {
        "machine": machine(),
        "runs": RUNS,
        "rank": RANK,
        "low-rank products, both ways": {
            f"{adapters} × {tokens} tokens, hidden {hidden}": {
                name: low_rank(adapters, tokens, wide * hidden // 2, [out * hidden // 2 for out in outs])
                for name, (wide, outs) in GROUPS.items()
            }
            for adapters, tokens, hidden in cases
        },
        "attention, both ways": {
            f"{rows} × {length} tokens": attend(rows, length)
            for rows, length in ((32, 32), (8, 128), (4, 512), (1, 2048))
        },
    }
    save(TARGET, result)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
