"""Training: the packed engine against TRL and a PEFT loop; one job, eight and thirty-two together.

    python -m bench.training [--only WORD …] [--runs 5] [--threads 2] [--gpu]

Every candidate runs in a process of its own, prepared and warmed up once; then they take turns, one round
each, so that whatever else the machine does hits all alike. Medians of the rounds. Tokens per CPU-second is
the robust figure on a shared machine. Writes ``bench/results/training.json``, the table in docs/engine.md and
``docs/figures/training_bench.svg``; with ``--only`` it prints and writes nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch

from bench.lanes.training import GEMMS, TOGETHER, Case
from bench.serving import machine

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench/results/training.json"
PAGE = ROOT / "docs/engine.md"
FIGURE = ROOT / "docs/figures/training_bench.svg"
BIG = {
    "hidden": 512,
    "intermediate": 1536,
    "layers": 8,
    "heads": 8,
    "kv_heads": 4,
    "head_dim": 64,
    "vocabulary": 8192,
}
SMALL = {**BIG, "hidden": 128, "intermediate": 384, "heads": 4, "kv_heads": 2, "head_dim": 32}
QWEN3_8B = {
    "hidden": 4096,
    "intermediate": 12288,
    "layers": 36,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "vocabulary": 151936,
}


@dataclass(frozen=True)
class Duel:
    """One case, who takes part, and what must hold: candidate over rival in tokens per CPU-second."""

    case: Case
    alone: Case
    """What candidates that train one job at a time are given."""
    candidates: tuple[str, ...]
    targets: tuple[tuple[str, str, float], ...]


def lengths(seed: int, rows: int = 16) -> list[int]:
    """Rows of mixed length, 16 to 512 tokens, about 130 in the mean."""
    numbers = random.Random(seed)
    return [min(512, max(16, int(numbers.lognormvariate(4.6, 0.7)))) for _ in range(rows)]


def duels() -> list[Duel]:
    """The CPU's cases."""
    one = Case("one job, mixed lengths, hidden 512", steps=[lengths(n) for n in range(2)], jobs=1, **BIG)
    everyone = ("native", "TRL defaults", "TRL without checkpointing", "TRL best", "PEFT loop")
    found = [
        Duel(
            one,
            one,
            (*everyone, "base alone"),
            (("native", "TRL defaults", 4.0), ("native", "TRL best", 1.6)),
        )
    ]
    for name, model, length, jobs, steps, target in (
        ("eight jobs, 1 × 128, hidden 512", BIG, 128, 8, 2, 2.8),
        ("eight jobs, 1 × 32, hidden 128", SMALL, 32, 8, 8, 16.0),
        ("thirty-two jobs, 1 × 32, hidden 128", SMALL, 32, 32, 4, 22.0),
        ("eight jobs, 1 × 128, hidden 128", SMALL, 128, 8, 6, 7.0),
        ("thirty-two jobs, 1 × 128, hidden 128", SMALL, 128, 32, 3, 0.0),
    ):
        case = Case(name, steps=[[length]] * steps, jobs=jobs, **model)
        alone = Case(name, steps=[[length]] * (2 * steps), jobs=1, **model)
        who = ("native", "native, one by one", "native, exact", "TRL defaults", "PEFT loop", "base alone")
        found.append(Duel(case, alone, who, (("native", "TRL defaults", target),) if target else ()))
    return found


def gpu_duels() -> list[Duel]:
    """The GPU's cases: Qwen3-8B's shape with random weights, bf16 and NF4; Unsloth where it is installed."""
    if not torch.cuda.is_available():
        return []
    many = [[512] * 8] * 2
    one = Case("one job, 8 × 512, 8B, bf16", steps=many, jobs=1, device="cuda", **QWEN3_8B)
    eight = Case("eight jobs, 1 × 256, 8B, bf16", steps=[[256]] * 4, jobs=8, device="cuda", **QWEN3_8B)
    who = ("native", "native, NF4", "TRL defaults", "TRL without checkpointing")
    goals: tuple[tuple[str, str, float], ...] = ()
    if left_out() is None:
        who = (*who, "Unsloth", "Unsloth, NF4")
        goals = (("native", "Unsloth", 1.0), ("native, NF4", "Unsloth, NF4", 1.0))
    lone = Case("eight jobs, 1 × 256, 8B, bf16", steps=[[256]] * 8, jobs=1, device="cuda", **QWEN3_8B)
    return [
        Duel(one, one, who, goals),
        Duel(
            eight,
            lone,
            (*who, "native, one by one", "native, NF4, one by one"),
            (
                ("native", "native, one by one", 3.0),
                ("native, NF4", "native, NF4, one by one", 3.0),
                *goals,
            ),
        ),
    ]


def left_out() -> str | None:
    """What of the GPU's cases is left out here, and why; None: nothing."""
    if importlib.util.find_spec("unsloth") is not None:
        return None
    return "Left out: Unsloth and Unsloth, NF4 (the package unsloth is not installed; TRL has no NF4 here)."


class Lane:
    """One candidate's process."""

    def __init__(self, name: str, case: Case, folder: Path, threads: int) -> None:
        self.name, self.case = name, case
        path = folder / f"{abs(hash((name, case.name)))}.json"
        path.write_text(json.dumps(asdict(case)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.lanes.training", name, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if "pytest" in sys.modules else None,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
        )
        self.rounds: list[dict[str, float]] = []
        self._read()

    @property
    def tokens(self) -> int:
        """Of a round."""
        return self.case.tokens * (self.case.jobs if self.name in TOGETHER else 1)

    def turn(self) -> None:
        """One round."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.rounds.append(self._read())

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} died in {self.case.name}")
        return json.loads(line)


def measure(duel: Duel, runs: int, threads: int) -> dict[str, Any]:
    """All candidates of a duel, alternating."""
    with tempfile.TemporaryDirectory() as folder:
        lanes = [
            Lane(name, duel.case if name in TOGETHER else duel.alone, Path(folder), threads)
            for name in (*duel.candidates, "gemm", "gemm, best")
        ]
        for number in range(runs):
            print(f"{duel.case.name}: round {number + 1} of {runs}", file=sys.stderr, flush=True)
            for lane in lanes:
                lane.turn()
        for lane in lanes:
            lane.close()
    return summarise(duel, lanes)


def summarise(duel: Duel, lanes: Sequence[Lane]) -> dict[str, Any]:
    """Medians, and fractions of the measured rates of matrix products."""
    clock = "wall" if duel.case.device == "cuda" else "cpu"
    rates = {
        lane.name: GEMMS * 2 * 2048**3 / statistics.median(turn[clock] for turn in lane.rounds)
        for lane in lanes
        if lane.name.startswith("gemm")
    }
    table: dict[str, dict[str, float]] = {}
    for lane in lanes:
        if lane.name in rates:
            continue
        peak = max(turn["peak_mb"] for turn in lane.rounds)
        if lane.name == "base alone":
            table[lane.name] = {"peak_mb": round(peak)}
            continue
        speeds = {
            unit: statistics.median(lane.tokens / turn[unit] for turn in lane.rounds)
            for unit in ("cpu", "wall")
        }
        work = speeds[clock] * lane.case.flops_per_token()
        table[lane.name] = {
            "tokens_per_cpu_second": round(speeds["cpu"], 1),
            "tokens_per_second": round(speeds["wall"], 1),
            "peak_mb": round(peak),
            "of_gemm_rate": round(work / rates["gemm"], 3),
            "of_best_gemm_rate": round(work / rates["gemm, best"], 3),
        }
    unit = "tokens_per_second" if clock == "wall" else "tokens_per_cpu_second"
    ratios = [
        {
            "of": mine,
            "over": other,
            "times": round(table[mine][unit] / table[other][unit], 2),
            "target": target,
            "each_round": [
                round(a / b, 2)
                for a, b in zip(speed(lanes, mine, clock), speed(lanes, other, clock), strict=True)
            ],
        }
        for mine, other, target in duel.targets
    ]
    return {
        "case": duel.case.name,
        "gemm_gflops_per_second": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
        "candidates": table,
        "ratios": ratios,
    }


def speed(lanes: Sequence[Lane], name: str, clock: str) -> list[float]:
    """A candidate's tokens per second of each round."""
    lane = next(lane for lane in lanes if lane.name == name)
    return [lane.tokens / turn[clock] for turn in lane.rounds]


def table(results: Sequence[dict[str, Any]]) -> str:
    """In Markdown."""
    lines: list[str] = []
    for result in results:
        lines += [
            f"**{result['case']}**",
            "",
            "| what | tokens per CPU-second | per second | peak MB | of torch.mm's rate | of the best rate |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in result["candidates"].items():
            numbers = [row.get("tokens_per_cpu_second"), row.get("tokens_per_second")]
            shown = ["" if number is None else f"{number:.0f}" for number in numbers]
            shares = [row.get("of_gemm_rate"), row.get("of_best_gemm_rate")]
            parts = ["" if share is None else f"{share:.2f}" for share in shares]
            lines.append("| " + " | ".join([name, *shown, str(row["peak_mb"]), *parts]) + " |")
        for ratio in result["ratios"]:
            goal = f" (wanted: {ratio['target']:g})" if ratio["target"] else ""
            lines += ["", f"{ratio['of']} over {ratio['over']}: **{ratio['times']:.2f} ×**{goal}."]
        lines.append("")
    return "\n".join(lines)


def figure(results: Sequence[dict[str, Any]]) -> str:
    """Tokens per CPU-second of every candidate, a group of bars for each case, as SVG."""
    bars: list[str] = []
    y, left, wide = 40, 210, 470
    for result in results:
        rows = {n: r for n, r in result["candidates"].items() if "tokens_per_cpu_second" in r}
        most = max(row["tokens_per_cpu_second"] for row in rows.values())
        bars.append(f'<text x="16" y="{y + 12}" font-weight="bold">{escape(result["case"])}</text>')
        y += 20
        for name, row in rows.items():
            value = row["tokens_per_cpu_second"]
            colour = "#1c7ed6" if name.startswith("native") else "#d9480f" if "TRL" in name else "#868e96"
            bars.append(
                f'<text x="{left - 8}" y="{y + 11}" text-anchor="end">{escape(name)}</text>'
                f'<rect x="{left}" y="{y}" width="{wide * value / most:.1f}" height="14" fill="{colour}"/>'
                f'<text x="{left + wide * value / most + 6:.1f}" y="{y + 11}">{value:.0f}</text>'
            )
            y += 18
        y += 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {y}" font-family="sans-serif" '
        f'font-size="12" fill="#333">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="16" y="22" font-size="14">Tokens per CPU-second</text>\n' + "\n".join(bars) + "\n</svg>\n"
    )


def write(results: Sequence[dict[str, Any]], asked: argparse.Namespace) -> None:
    """Results, page and figure."""
    where = {**machine(), "threads": asked.threads}
    RESULT.write_text(json.dumps({"machine": where, "runs": asked.runs, "cases": results}, indent=1) + "\n")
    FIGURE.write_text(figure(results))
    begin, end = "<!-- bench: begin -->\n", "<!-- bench: end -->"
    head, rest = PAGE.read_text().split(begin)
    facts = (
        f"{where['cpu']}, {asked.threads} threads, torch {where['torch']}; "
        f"medians of {asked.runs} rounds.\n\n"
    )
    PAGE.write_text(head + begin + facts + table(results) + end + rest.split(end)[1])


def main() -> int:
    """Measure; 1 if a target was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[], help="cases whose name has any of these words")
    parser.add_argument("--candidates", nargs="*", default=[], help="only these candidates")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--gpu", action="store_true", help="the GPU's cases instead of the CPU's")
    asked = parser.parse_args()
    chosen = gpu_duels() if asked.gpu else duels()
    if asked.gpu and not chosen:
        print("The GPU lane needs an NVIDIA GPU with 40 GB and a CUDA build of torch; there is none here.")
        return 0
    if asked.gpu and (without := left_out()):
        print(without)
    if asked.only:
        chosen = [duel for duel in chosen if any(word in duel.case.name for word in asked.only)]
    if asked.candidates:
        chosen = [narrowed(duel, asked.candidates) for duel in chosen]
    results = [measure(duel, asked.runs, asked.threads) for duel in chosen]
    print(table(results))
    if not (asked.only or asked.candidates or asked.gpu):
        write(results, asked)
    missed = [r for result in results for r in result["ratios"] if r["target"] and r["times"] < r["target"]]
    return 1 if missed else 0


def narrowed(duel: Duel, wanted: Sequence[str]) -> Duel:
    """A duel of some candidates only."""
    return Duel(
        duel.case,
        duel.alone,
        tuple(name for name in duel.candidates if name in wanted),
        tuple(target for target in duel.targets if set(target[:2]) <= set(wanted)),
    )


if __name__ == "__main__":
    sys.exit(main())
