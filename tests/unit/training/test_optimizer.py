"""One flat vector is optimized as PyTorch optimizes the tensors apart."""

import pytest
import torch

from graftwork.training.engine import Adapter, Part
from graftwork.training.optimizer import Optimizer

PARTS = (Part("a", 0, (3, 4)), Part("b", 12, (5,)))


def make_adapter():
    torch.manual_seed(0)
    return Adapter("x", torch.randn(17), torch.zeros(17), PARTS, ("q_proj",))


def gradients(step):
    return torch.linspace(-1, 2, 17).roll(step) * (step + 1)


def test_flat_adamw_equals_separate_tensors_with_clipping():
    adapter = make_adapter()
    ours = Optimizer(adapter, weight_decay=0.1, max_grad_norm=1.5)
    theirs = [torch.nn.Parameter(tensor.clone()) for tensor in adapter.tensors().values()]
    adamw = torch.optim.AdamW(theirs, lr=0.0, weight_decay=0.1)
    for step in range(5):
        adapter.grad.copy_(gradients(step))
        for parameter, slope in zip(theirs, adapter.tensors(adapter.grad).values(), strict=True):
            parameter.grad = slope.clone()
        expected = torch.nn.utils.clip_grad_norm_(theirs, 1.5)
        assert ours.gradient_norm() == pytest.approx(float(expected), rel=1e-6)
        ours.step(0.01 * step)
        adamw.param_groups[0]["lr"] = 0.01 * step
        adamw.step()
    for parameter, tensor in zip(theirs, adapter.tensors().values(), strict=True):
        assert torch.allclose(parameter, tensor, atol=1e-7)


def test_a_restored_optimizer_goes_on_bit_for_bit():
    whole, broken = make_adapter(), make_adapter()
    first, second = (Optimizer(adapter, 0.0, 1.0) for adapter in (whole, broken))
    for step in range(6):
        if step == 3:
            state = {name: tensor.clone() for name, tensor in second.state().items()}
            second = Optimizer(broken, 0.0, 1.0)
            second.restore(state)
        for adapter, optimizer in ((whole, first), (broken, second)):
            adapter.grad.copy_(gradients(step))
            optimizer.gradient_norm()
            optimizer.step(0.01)
    assert torch.equal(whole.weights, broken.weights)


def test_the_norm_of_many_numbers_is_exact():
    count = 3_000_001  # all alike, in single precision their sum would be off in the third digit
    adapter = Adapter("x", torch.zeros(count), torch.full((count,), 0.1), (), ())
    wanted = float(torch.tensor(0.1)) * count**0.5
    assert Optimizer(adapter, 0.0, 1e9).gradient_norm() == pytest.approx(wanted, rel=1e-6)


HALVES = (Part("m.lora_A.weight", 0, (3, 4)), Part("m.lora_B.weight", 12, (5,)))


def test_lora_plus_is_adamw_with_two_rates():
    torch.manual_seed(0)
    adapter = Adapter("x", torch.randn(17), torch.zeros(17), HALVES, ("m",))
    ours = Optimizer(adapter, weight_decay=0.1, max_grad_norm=100.0, lora_plus=16.0)
    theirs = [torch.nn.Parameter(tensor.clone()) for tensor in adapter.tensors().values()]
    groups = [{"params": [theirs[0]]}, {"params": [theirs[1]]}]
    adamw = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.1)
    for step in range(6):
        if step == 3:  # as a resumed run does
            state = {name: tensor.clone() for name, tensor in ours.state().items()}
            ours = Optimizer(adapter, weight_decay=0.1, max_grad_norm=100.0, lora_plus=16.0)
            ours.restore(state)
        adapter.grad.copy_(gradients(step))
        for parameter, slope in zip(theirs, adapter.tensors(adapter.grad).values(), strict=True):
            parameter.grad = slope.clone()
        ours.gradient_norm()
        ours.step(0.001 * step)
        for group, ratio in zip(adamw.param_groups, (1.0, 16.0), strict=True):
            group["lr"] = 0.001 * step * ratio
        adamw.step()
    for parameter, tensor in zip(theirs, adapter.tensors().values(), strict=True):
        assert torch.allclose(parameter, tensor, atol=1e-6)


@pytest.mark.parametrize("lora_plus", [None, 4.0])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_moments_that_rest_elsewhere_between_steps_change_nothing(device: str, lora_plus: float | None):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU and a CUDA build of torch: make test-gpu")
    ends = []
    for parks in (False, True):
        made = make_adapter()
        adapter = Adapter(made.name, made.weights.to(device), made.grad.to(device), made.parts, made.targets)
        optimizer = Optimizer(adapter, 0.1, 1.0, lora_plus)
        for step in range(4):
            adapter.grad.copy_(gradients(step))
            optimizer.gradient_norm()
            optimizer.step(0.01)
            if parks:
                optimizer.park()
                moments = [value for name, value in optimizer.state().items() if name != "step"]
                assert {value.device.type for value in moments} == {"cpu"}
        ends.append(adapter.weights.cpu())
    assert torch.equal(*ends)
