"""FlashAttention's variable-length form is asked for the right thing, and is used where it answers rightly.

There is no GPU here: a slow function that keeps to the kernel's own contract stands for it.
"""

import pytest
import torch
from torch.nn import functional

from graftwork.training.packed import attention, flash
from graftwork.training.packed.attention import core, core_back
from graftwork.training.packed.where import Where

LENGTHS = (1, 15, 33, 7, 7)
STARTS = (0, 1, 16, 49, 56)
CPU = torch.device("cpu")


def slow(q, k, v, edges_q, edges_k, longest_q, longest_k, *, scale, window_size, enable_gqa):
    """``torch.nn.attention.varlen.varlen_attn`` by its documentation, strict in what it takes."""
    assert edges_q.dtype is edges_k.dtype is torch.int32 and edges_q[-1] == len(q) == len(k) == len(v)
    assert longest_q == longest_k == int(edges_q.diff().max()) and enable_gqa == (q.shape[1] != k.shape[1])
    before, after = window_size
    assert after == 0
    rows = []
    for start, end in zip(edges_q[:-1].tolist(), edges_q[1:].tolist(), strict=True):
        at = torch.arange(end - start)
        behind = at[:, None] - at[None, :]
        seen = (behind >= 0) & ((behind <= before) | (before == -1))
        mine = [tensor[start:end].transpose(0, 1) for tensor in (q, k, v)]
        made = functional.scaled_dot_product_attention(*mine, seen, scale=scale, enable_gqa=enable_gqa)
        rows.append(made.transpose(0, 1))
    return torch.cat(rows)


def draw():
    numbers = torch.Generator().manual_seed(5)
    return [torch.randn(63, heads, 16, generator=numbers).bfloat16() for heads in (4, 2, 2, 4)]


def both_ways(scale, window):
    *tensors, slope = draw()
    where = Where(LENGTHS, STARTS, CPU)
    out, kept = core(*tensors, where, scale, window)
    return out, *core_back(slope, (*tensors, out), kept, where, scale, window)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(flash, "takes", lambda query, value: True)
    attention._flash_works.cache_clear()
    yield
    attention._flash_works.cache_clear()


@pytest.mark.parametrize(("scale", "window"), [(None, None), (0.3, None), (None, 1), (None, 5), (None, 1000)])
def test_output_and_gradients_are_those_of_rows_side_by_side(monkeypatch, scale, window):
    monkeypatch.setattr(flash, "varlen_attn", slow)
    assert attention._flash_works(CPU, torch.bfloat16)
    found = both_ways(scale, window)
    monkeypatch.setattr(flash, "takes", lambda query, value: False)
    for one, other in zip(found, both_ways(scale, window), strict=True):
        assert (one.float() - other.float()).abs().max() <= 0.02 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("wrong", ["raises", "sees everything"])
def test_a_kernel_that_is_missing_or_wrong_is_not_used(monkeypatch, caplog, wrong):
    def kernel(*values, window_size, **more):
        if wrong == "raises":
            raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")
        return slow(*values, window_size=(-1, 0), **more)

    monkeypatch.setattr(flash, "varlen_attn", kernel)
    assert not attention._flash_works(CPU, torch.bfloat16)
    assert "without FlashAttention" in caplog.text


@pytest.mark.parametrize(
    ("kind", "size", "value_size", "device", "taken"),
    [
        (torch.bfloat16, 128, 128, "cuda", True),
        (torch.float32, 128, 128, "cuda", False),
        (torch.float16, 12, 12, "cuda", False),
        (torch.bfloat16, 512, 512, "cuda", False),
        (torch.bfloat16, 192, 128, "cuda", False),
        (torch.bfloat16, 128, 128, "cpu", False),
    ],
)
def test_what_it_takes(monkeypatch, kind, size, value_size, device, taken):
    monkeypatch.undo()

    class Like:
        dtype = kind

        def __init__(self, size):
            self.shape, self.device = (3, 2, size), torch.device(device)

    assert flash.takes(Like(size), Like(value_size)) is taken
