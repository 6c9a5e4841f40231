"""Low-rank products by the compiled kernel are every adapter's own products, whoever is beside it."""

import shutil

import pytest
import torch

from graftwork.core.specs import LoraSpec
from graftwork.data.rendering import Encoded
from graftwork.training.packed.bank import Banks, Group, Site
from graftwork.training.packed.cohort import cohorts
from graftwork.training.packed.layout import Stretch, pack
from graftwork.training.packed.lowrank import backward_, forward_
from graftwork.training.packed.shares import kernel
from graftwork.training.targets import Targets

IN = 40
QKV = Group((Site("layer.q", IN, 48), Site("layer.k", IN, 8), Site("layer.v", IN, 24)))
CPU = torch.device("cpu")
NAMES = ("q", "k", "v")

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="needs a C compiler: without one, torch multiplies",
)


@pytest.fixture(autouse=True)
def small_work_is_shared(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr("graftwork.training.packed.kernels.WORTH", 1)  # no work is too small to share
    yield
    torch.set_num_threads(before)


def company(sizes, rank, names=NAMES, **options):
    """Adapters with so many tokens each (0: present, without work), B not zero; and the tokens' cohort."""
    banks = Banks([QKV], CPU)
    targets = Targets(names, (), tuple(f"layer.{name}" for name in names), (), None)
    lora = [LoraSpec(rank=rank, alpha=rank * (n + 1), **options) for n in range(len(sizes))]
    tenants = [banks.add(str(n), each, targets, n) for n, each in enumerate(lora)]
    numbers = torch.Generator().manual_seed(1)
    for tenant in tenants:
        tenant.adapter.weights.normal_(generator=numbers)
    rows = [
        Stretch(tenant, [Encoded([1] * (size + 1), [False] * size + [True], size + 1)], (7,) * bool(options))
        for tenant, size in zip(tenants, sizes, strict=True)
        if size
    ]
    (cohort,) = cohorts(pack(rows, CPU).spans)
    return tenants, cohort


def draw(tokens, gap=0):
    """Input, output so far and slope of a group; ``gap``: numbers between one token's and the next's."""
    numbers = torch.Generator().manual_seed(2)
    return [torch.randn(tokens, wide + gap, generator=numbers)[:, :wide] for wide in (IN, 80, 80)]


def both_ways(cohort, x, y, slope, toward_x=True):
    """Output, gradient toward x, and the tables of gradients."""
    y, dx = y.clone(), torch.ones(len(x), IN) if toward_x else None
    cohort.bank.grads.zero_()
    kept = forward_(QKV.key, (cohort,), x, y)
    backward_(QKV.key, (cohort,), kept, lambda: x, slope, dx)
    return y, dx, cohort.bank.grads.clone()


def alike(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert (one is None and other is None) or (one - other).abs().max() <= 1e-6 * other.abs().max()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rank", [8, 16, 24, 40])
@pytest.mark.parametrize("sizes", [(5, 5, 5), (1, 0, 33, 16, 7), (0, 20, 3)])
@pytest.mark.parametrize("names", [NAMES, ("k",), ("q", "v")])
def test_all_is_as_with_torch(monkeypatch, threads, rank, sizes, names):
    torch.set_num_threads(threads)
    _, cohort = company(sizes, rank, names)
    tensors = draw(sum(sizes), gap=3)
    own = cohort.bank.matrices(QKV.key, cohort.slots)
    assert kernel(cohort, own, *tensors)
    found = both_ways(cohort, *tensors)
    monkeypatch.setattr("graftwork.training.packed.lowrank.kernel", lambda *_: None)
    alike(found, both_ways(cohort, *tensors))


def test_nobody_wants_a_gradient_toward_the_first_input(monkeypatch):
    _, cohort = company((4, 9), 8)
    tensors = draw(13)
    found = both_ways(cohort, *tensors, toward_x=False)
    monkeypatch.setattr("graftwork.training.packed.lowrank.kernel", lambda *_: None)
    alike(found, both_ways(cohort, *tensors, toward_x=False))


def test_dropout_is_the_same_on_either_path(monkeypatch):
    _, cohort = company((6, 6, 2), 16, dropout=0.5)
    assert cohort.keep(QKV.key, IN, CPU).min() == 0
    tensors = draw(14)
    found = both_ways(cohort, *tensors)
    monkeypatch.setattr("graftwork.training.packed.lowrank.kernel", lambda *_: None)
    alike(found, both_ways(cohort, *tensors))


@pytest.mark.parametrize("threads", [1, 2])
def test_bits_do_not_depend_on_the_neighbours(threads):
    """Two of four leave, and one of the others has NaN: the last one's numbers stay what they were."""
    torch.set_num_threads(threads)
    tenants, cohort = company((9, 21, 4, 17), 16)
    x, y, slope = draw(51)
    out, dx, grads = both_ways(cohort, x, y, slope)
    kept = torch.cat([torch.arange(9, 30), torch.arange(34, 51)])
    rows = [
        Stretch(tenants[n], [Encoded([1] * (size + 1), [False] * size + [True], size + 1)])
        for n, size in ((1, 21), (3, 17))
    ]
    (fewer,) = cohorts(pack(rows, CPU).spans)
    x, y, slope = (tensor[kept].clone() for tensor in (x, y, slope))
    x[:21] = torch.nan
    found = both_ways(fewer, x, y, slope)
    mine = slice(21, 38)
    assert torch.equal(found[0][mine], out[34:])
    assert torch.equal(found[1][mine], dx[34:])
    assert torch.equal(found[2][tenants[3].slot], grads[tenants[3].slot])
    assert found[2][tenants[1].slot].isnan().any() and not found[2][tenants[0].slot].any()


def test_odd_sizes_and_other_precisions_are_left_to_torch():
    _, cohort = company((4, 4), 4)
    own = cohort.bank.matrices(QKV.key, cohort.slots)
    x, y, _ = draw(8)
    assert kernel(cohort, own, x, y) is None
    _, cohort = company((4, 4), 8)
    own = cohort.bank.matrices(QKV.key, cohort.slots)
    assert kernel(cohort, own, x, y)
    assert kernel(cohort, own, x.bfloat16(), y.bfloat16()) is None
    assert kernel(cohort, own, x.t().contiguous().t(), y) is None
