"""Attention by the compiled kernel is attention: row by row, with windows, grouped queries, odd lengths."""

import shutil

import pytest
import torch
from torch.nn import functional

from graftwork.training.packed.attend import Attend
from graftwork.training.packed.attention import core
from graftwork.training.packed.where import Where

LENGTHS = (1, 15, 16, 17, 32, 33, 100, 7)
SIZE, HEADS, KV_HEADS = 32, 4, 2

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="needs a C compiler: without one, torch attends",
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def starts(lengths):
    return [sum(lengths[:n]) for n in range(len(lengths))]


def draw(lengths=LENGTHS, apart=0):
    """Query, key and value, heads side by side; with ``apart`` numbers between one token's and the next's."""
    numbers, tokens = torch.Generator().manual_seed(3), sum(lengths)
    wide = (HEADS + 2 * KV_HEADS) * SIZE
    made = torch.randn(tokens, wide + apart, generator=numbers)[:, :wide].unflatten(1, (-1, SIZE))
    return made[:, :HEADS], made[:, HEADS : HEADS + KV_HEADS], made[:, HEADS + KV_HEADS :]


def attend(tensors, lengths=LENGTHS, window=None, scale=None):
    found = Attend.of(*tensors, Where(lengths, starts(lengths), torch.device("cpu")), scale, window)
    assert found is not None
    return found


def slow(tensors, window=None, scale=None, lengths=LENGTHS):
    """Every row by itself, in double precision, under autograd; and its leaves."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in tensors]
    rows = []
    for start, length in zip(starts(lengths), lengths, strict=True):
        q, k, v = (leaf[start : start + length].transpose(0, 1) for leaf in leaves)
        at = torch.arange(length)
        behind = at[:, None] - at[None, :]
        seen = (behind >= 0) & (behind < (window or length))
        k, v = (tensor.repeat_interleave(HEADS // KV_HEADS, 0) for tensor in (k, v))
        rows.append(functional.scaled_dot_product_attention(q, k, v, seen, scale=scale).transpose(0, 1))
    return torch.cat(rows), leaves


@pytest.mark.parametrize("window", [None, 1, 5, 16, 40, 1000])
@pytest.mark.parametrize(("apart", "scale"), [(0, None), (24, 0.3)])
def test_output_and_gradients_are_those_of_every_row_by_itself(window, apart, scale):
    tensors = draw(apart=apart)
    own = attend(tensors, window=window, scale=scale)
    out, (logs,) = own.forward()
    wanted, leaves = slow(tensors, window, scale)
    assert (out - wanted).abs().max() < 2e-6
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(4))
    wanted.backward(slope.double())
    for found, leaf in zip(own.backward(slope, out, logs), leaves, strict=True):
        assert leaf.grad is not None and (found - leaf.grad).abs().max() < 1e-5


def test_it_is_what_serves_attention_here():
    tensors = draw()
    where = Where(LENGTHS, starts(LENGTHS), torch.device("cpu"))
    out, kept = core(*tensors, where, None, None)
    assert len(kept) == 1 and torch.equal(out, attend(tensors).forward()[0])
    odd = [tensor[..., : SIZE - 1] for tensor in tensors]
    assert Attend.of(*odd, where, None, None) is None
    assert Attend.of(*(tensor.double() for tensor in tensors), where, None, None) is None


def test_a_rows_bits_depend_on_nothing_but_the_row():
    tensors = draw()
    out, (logs,) = attend(tensors).forward()
    made = attend(tensors).backward(out, out, logs)
    for start, length in zip(starts(LENGTHS), LENGTHS, strict=True):
        here = slice(start, start + length)
        alone = attend([tensor[here] for tensor in tensors], (length,))
        again, (its,) = alone.forward()
        assert torch.equal(again, out[here])
        for mine, all_of_them in zip(alone.backward(again, again, its), made, strict=True):
            assert torch.equal(mine, all_of_them[here])


def test_threads_share_the_work_and_change_no_bit():
    lengths = (300, 200, 256)
    tensors = draw(lengths)
    alone, (logs,) = attend(tensors, lengths).forward()
    slopes = attend(tensors, lengths).backward(alone, alone, logs)
    torch.set_num_threads(3)
    together, (same,) = attend(tensors, lengths).forward()
    assert torch.equal(alone, together) and torch.equal(logs, same)
    for one, other in zip(slopes, attend(tensors, lengths).backward(alone, alone, logs), strict=True):
        assert torch.equal(one, other)


def test_a_nan_stays_in_its_row():
    tensors = draw()
    clean, _ = attend(tensors).forward()
    broken = [tensor.clone() for tensor in tensors]
    broken[1][40] = float("nan")  # in the row of 17
    out, (logs,) = attend(broken).forward()
    begin = starts(LENGTHS)[3]
    mine = slice(begin, begin + 17)
    others = torch.ones(len(out), dtype=torch.bool)
    others[mine] = False
    assert torch.equal(out[others], clean[others])
    assert out[mine].isnan().any()
    for gradient in attend(broken).backward(torch.ones_like(out), out, logs):
        assert gradient[others].isfinite().all()
