"""The element-wise parts: values and gradients of plain autograd in double precision, NaN kept in its row."""

import sys

import pytest
import torch
from torch.nn import functional

from graftwork.training.packed import elementwise
from graftwork.training.packed.elementwise import gate, gate_back_, norm, norm_back


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_norm_and_its_gradient():
    x, weight, slope = drawn(5, 24), drawn(24), drawn(5, 25)[:, :24].contiguous()
    exact = x.double().requires_grad_()
    wanted = functional.rms_norm(exact, (24,), weight.double(), 1e-6)
    wanted.backward(slope.double())
    found, scale = norm(x, weight, 1e-6)
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    assert torch.allclose(norm_back(slope, x, weight, scale).double(), exact.grad, atol=1e-5)


def test_gate_and_its_gradient_at_small_and_large_values():
    both, slope = drawn(4, 32) * 30, drawn(4, 16)
    both[1, 3] = float("nan")
    exact = both.double().requires_grad_()
    wanted = functional.silu(exact[:, :16]) * exact[:, 16:]
    wanted.backward(slope.double())
    assert torch.allclose(gate(both).double(), wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.allclose(gate_back_(slope, both).double(), exact.grad, rtol=1e-5, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_without_triton_cuda_is_left_to_torch(monkeypatch, caplog, kind):
    for name in ("triton", "graftwork.training.packed.triton_kernels"):
        monkeypatch.setitem(sys.modules, name, None)
    assert elementwise._triton.__wrapped__(torch.device("cuda"), kind) is None
    assert ("without Triton kernels" in caplog.text) == (kind is torch.bfloat16)
