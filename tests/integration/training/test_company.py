"""An adapter trained in company equals the adapter trained alone; nobody's trouble is another's.

Bounds. ``SoloEngine`` lets adapters take turns, and so does ``PackedEngine`` in its exact mode: all is
equal bit for bit. In its fast mode it computes one batch of all rows: sums of fp32 products may end in other
last bits when other rows share the batch, and AdamW lets them grow from step to step. ``BOUND`` is what is
allowed of any tensor after a whole run, as a share of its largest entry.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from companies import Company, Load, alone, distance, losses, motley, outcome, tensors
from tinytraining import make_rows, make_run

from graftwork.core.states import Outcome, Want
from graftwork.data.rendering import Encoded, Renderer
from graftwork.training.engine import Engine, Work
from graftwork.training.loading import load_model
from graftwork.training.packed.engine import PackedEngine
from graftwork.training.solo import SoloEngine

pytestmark = pytest.mark.slow

BOUND = {"solo": 0.0, "exact": 0.0, "packed": 2e-3}
CURVE = {"solo": 0.0, "exact": 0.0, "packed": 2e-4}
"""Of the losses, nats."""


@pytest.fixture(scope="session")
def renderer(base: Path) -> Renderer:
    return Renderer.load(base)


@pytest.fixture(params=["solo", "exact", "packed"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def load(kind: str, base: Path) -> Load:
    if kind == "solo":
        return lambda: SoloEngine.load(base, torch.device("cpu"))
    company = "exact" if kind == "exact" else "fast"
    return lambda: PackedEngine(load_model(base, torch.device("cpu")), company=company)


@pytest.fixture(scope="session")
def known() -> dict[tuple[str, int], str]:
    """Runs that were trained alone already, by engine and number."""
    return {}


@pytest.fixture
def lone(
    kind: str, load: Load, renderer: Renderer, known: dict[tuple[str, int], str], tmp_path_factory: Any
) -> Callable[[int], str]:
    """The run of a number, trained alone and unbroken."""

    def train(number: int) -> str:
        if (kind, number) not in known:
            folder = tmp_path_factory.mktemp(f"lone-{kind}-{number}") / "run"
            known[kind, number] = alone(load, renderer, folder, number)
        return known[kind, number]

    return train


def agree(kind: str, uri: str, fence: int, lone: str) -> float:
    """The run in company is the lone one, curve and tensors; how far off it was."""
    together, apart = losses(uri, fence), losses(lone, 1)
    assert together.keys() == apart.keys()
    assert max(abs(together[step] - apart[step]) for step in apart) <= CURVE[kind]
    off, name = distance(tensors(lone, 1), tensors(uri, fence))
    assert off <= BOUND[kind], f"{name} is {off:.2e} off"
    return off


def test_sixteen_who_come_and_go_equal_themselves_alone(
    tmp_path: Path, load: Load, renderer: Renderer, kind: str, lone: Callable[[int], str]
):
    come_and_go(Company(load(), renderer), tmp_path, kind, lone, 16)


@pytest.mark.parametrize("kind", ["packed"], indirect=True)
def test_six_who_share_passes_of_200_tokens_equal_themselves_alone(
    tmp_path: Path, load: Load, renderer: Renderer, kind: str, lone: Callable[[int], str]
):
    come_and_go(Company(load(), renderer, 200), tmp_path, kind, lone, 6)


def come_and_go(company: Company, tmp_path: Path, kind: str, lone: Callable[[int], str], count: int) -> None:
    """Runs that come aboard, pause and come back at random turns; each is compared with itself alone."""
    numbers = random.Random(f"joint/{count}")
    runs = {n: motley(tmp_path / f"in{n}", n) for n in range(count)}
    fences = dict.fromkeys(runs, 1)
    waiting = {n: numbers.randint(0, 10) for n in runs}  # by turn of coming aboard
    leaving = {n: numbers.randint(1, 5) for n in numbers.sample(range(count), count // 3)}
    for now in range(200):
        for n in [n for n, at in waiting.items() if at <= now]:
            del waiting[n]
            company.join(runs[n], fences[n])
            if n in leaving and fences[n] == 1:
                leaving[n] += now
        for n, at in leaving.items():
            if at == now and company.aboard(runs[n]):
                company.tell(runs[n], fences[n], Want.PAUSE)
                fences[n] += 1
                waiting[n] = now + numbers.randint(2, 6)
        company.turn()
        if not waiting and not company.trainer.sessions:
            break
    assert any(fence > 1 for fence in fences.values())
    worst = 0.0
    for n, uri in runs.items():
        assert outcome(uri, fences[n]) is Outcome.SUCCEEDED
        worst = max(worst, agree(kind, uri, fences[n], lone(n)))
    print(f"\n{kind}: the largest difference of any tensor of {count} runs is {worst:.1e} of its scale")


Poison = Callable[[Company, str], None]


def nan_weights(company: Company, uri: str) -> None:
    company.session(uri).adapter.weights.fill_(float("nan"))


def one_infinite_weight(company: Company, uri: str) -> None:
    company.session(uri).adapter.weights[3] = float("inf")


def cancelled(company: Company, uri: str) -> None:
    company.tell(uri, want=Want.CANCEL)


def paused(company: Company, uri: str) -> None:
    company.tell(uri, want=Want.PAUSE)


def out_of_range(company: Company, uri: str) -> None:
    rows = company.session(uri).data.rows
    rows[:] = [replace(row, tokens=[*row.tokens[:-1], 10**6]) for row in rows]


def exploding(company: Company, uri: str) -> None:
    session = company.session(uri)
    session.spec = session.spec.model_copy(
        update={"schedule": session.spec.schedule.model_copy(update={"learning_rate": 1e30})}
    )


def unlabelled(company: Company, uri: str) -> None:
    rows = company.session(uri).data.rows
    rows[:] = [replace(row, labels=[False] * len(row.tokens)) for row in rows]


def work_breaks(company: Company, uri: str) -> None:
    company.session(uri).data.rows.clear()


def folder_gone(company: Company, uri: str) -> None:
    import shutil

    shutil.rmtree(uri)


POISONS = [
    nan_weights,
    one_infinite_weight,
    cancelled,
    paused,
    out_of_range,
    exploding,
    unlabelled,
    work_breaks,
    folder_gone,
]


def poisoned(
    tmp_path: Path,
    load: Load,
    renderer: Renderer,
    kind: str,
    lone: Callable[[int], str],
    poisons: list[Poison],
) -> None:
    """Three runs among poisoned ones equal themselves alone."""
    healthy = [motley(tmp_path / f"h{n}", n) for n in (1, 2, 3)]
    bad = [motley(tmp_path / f"bad{n}", 7) for n in range(len(poisons))]
    company = Company(load(), renderer)
    company.join(healthy[0])
    for uri in [*bad, *healthy[1:]]:
        company.join(uri)
    company.turn(3)
    for poison, uri in zip(poisons, bad, strict=True):
        poison(company, uri)
    company.turn(3)
    for poison, uri in zip(poisons, bad, strict=True):
        assert poison in (unlabelled, folder_gone) or not company.aboard(uri)
    company.finish()
    for n, uri in zip((1, 2, 3), healthy, strict=True):
        assert outcome(uri) is Outcome.SUCCEEDED
        agree(kind, uri, 1, lone(n))


def test_poisoned_neighbours_change_nothing(
    tmp_path: Path, load: Load, renderer: Renderer, kind: str, lone: Callable[[int], str]
):
    poisoned(tmp_path, load, renderer, kind, lone, POISONS)


@pytest.mark.parametrize("kind", ["packed"], indirect=True)
@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.__name__)
def test_each_poison_alone_changes_nothing(
    tmp_path: Path, load: Load, renderer: Renderer, kind: str, lone: Callable[[int], str], poison: Poison
):
    poisoned(tmp_path, load, renderer, kind, lone, [poison])


def works(engine: Engine, renderer: Renderer, count: int) -> list[Work]:
    """One micro-batch each for adapters of different ranks."""
    from graftwork.core.specs import LoraSpec

    made = []
    for n in range(count):
        adapter = engine.add(LoraSpec(rank=2 + n, alpha=4, dropout=0.1 * n), seed=n)
        generator = torch.Generator().manual_seed(n)
        adapter.weights.copy_(torch.randn(adapter.weights.shape, generator=generator) * 0.05)
        rows = [renderer.encode(row) for row in make_rows(3, seed=n)]
        made.append(Work(adapter, [rows], seed=n))
    return made


BAD_ROWS = {
    "token too large": lambda row: replace(row, tokens=[*row.tokens[:-1], 10**6]),
    "negative token": lambda row: replace(row, tokens=[-1, *row.tokens[1:]]),
    "nothing labelled": lambda row: replace(row, labels=[False] * len(row.tokens)),
    "empty row": lambda row: Encoded([], [], 0),
}


@pytest.mark.parametrize("what", [*BAD_ROWS, "no batches", "no rows"])
def test_an_engine_keeps_bad_work_to_itself(load: Load, renderer: Renderer, kind: str, what: str):
    from graftwork.training.company import forward_backward

    engine = load()
    work = works(engine, renderer, 4)
    forward_backward(engine, [work[0], work[2], work[3]])
    expected = [item.adapter.grad.clone() for item in work]
    [rows] = work[1].batches
    bad = {"no batches": [], "no rows": [[]]}.get(what) if what not in BAD_ROWS else None
    work[1] = replace(work[1], batches=[[BAD_ROWS[what](row) for row in rows]] if bad is None else bad)
    outcomes = forward_backward(engine, work)
    assert len(outcomes) == 4
    for n in (0, 2, 3):
        assert not isinstance(outcomes[n], Exception), outcomes[n]
        scale = float(expected[n].abs().max())
        assert scale > 0
        off = float((work[n].adapter.grad - expected[n]).abs().max()) / scale
        assert off <= (2e-5 if kind == "packed" else 0.0)


def test_paused_preempted_and_batched_again_with_others_the_curve_is_the_lone_one(
    tmp_path: Path, load: Load, renderer: Renderer, kind: str, lone: Callable[[int], str]
):
    mine = motley(tmp_path / "mine", 5)
    first = Company(load(), renderer)
    first.join(mine).join(motley(tmp_path / "a", 1)).join(motley(tmp_path / "b", 2))
    first.turn(3)
    first.tell(mine, 1, Want.PAUSE)  # preempted: others come in its place
    first.turn()
    assert not first.aboard(mine) and outcome(mine) is Outcome.PAUSED
    first.join(motley(tmp_path / "c", 3))
    first.turn(2)
    second = Company(load(), renderer)  # another machine, other neighbours
    second.join(motley(tmp_path / "d", 4)).join(mine, 2).join(motley(tmp_path / "e", 6))
    second.turn(3)
    second.stop.raised = True  # the machine is taken away: all save
    second.turn()
    assert outcome(mine, 2) is Outcome.PAUSED
    third = Company(load(), renderer)  # the third dies without a word, in the middle of a step
    third.join(mine, 3).join(motley(tmp_path / "f", 8))
    third.turn(2)
    third.session(mine).attempt.writer.flush()
    last = Company(load(), renderer)
    last.join(mine, 4).join(motley(tmp_path / "g", 9)).join(motley(tmp_path / "h", 10))
    last.finish()
    assert outcome(mine, 4) is Outcome.SUCCEEDED
    agree(kind, mine, 4, lone(5))


def test_runs_of_one_seed_and_data_do_not_mix(tmp_path: Path, load: Load, renderer: Renderer, kind: str):
    """Twins end alike, and a third that differs in its rate alone does not."""
    twins = [make_run(tmp_path / name, make_rows(12), learning_rate=rate) for name, rate in _RATES]
    company = Company(load(), renderer)
    for uri in twins:
        company.join(uri)
    company.finish()
    same, _ = distance(tensors(twins[0], 1), tensors(twins[1], 1))
    other, _ = distance(tensors(twins[0], 1), tensors(twins[2], 1))
    assert same <= BOUND[kind]
    assert other > 0.01


_RATES = (("one", 0.01), ("two", 0.01), ("three", 0.02))
