"""Split LoRA on stacked experts against W + BA, folded as PEFT folds it, by the token."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from graftwork.training.packed.experts import ExpertLora, Frozen, LowRank, Stretch, split_experts

EXPERTS, ACTIVE, HIDDEN, INNER = 8, 2, 32, 24


def clamped(wide):
    gate, up = wide[..., ::2].clamp(max=1.0), wide[..., 1::2]
    return (up + 1) * gate * torch.sigmoid(1.7 * gate)


def silu(wide):
    gate, up = wide.chunk(2, dim=-1)
    return nn.functional.silu(gate) * up


def experts(kind, random):
    """As Qwen has them, or as gpt-oss: transposed, with biases, gate and up interleaved."""
    plain = kind == "qwen"
    shapes = [(2 * INNER, HIDDEN), (HIDDEN, INNER)]
    stacks = [
        torch.randn(EXPERTS, *(shape if plain else shape[::-1]), generator=random) * 0.3 for shape in shapes
    ]
    return SimpleNamespace(
        gate_up_proj=stacks[0],
        down_proj=stacks[1],
        gate_up_proj_bias=torch.randn(EXPERTS, 2 * INNER, generator=random),
        down_proj_bias=torch.randn(EXPERTS, HIDDEN, generator=random),
        is_transposed=not plain,
        has_bias=not plain,
        _apply_gate=silu if plain else clamped,
    )


def pair(rank, inputs, outputs, random):
    a = torch.randn(EXPERTS * rank, inputs, generator=random) * 0.3
    b = torch.randn(outputs, rank * EXPERTS, generator=random) * 0.3
    return LowRank(a, b, torch.zeros_like(a), torch.zeros_like(b))


def lora(rank, scale, random, *, up=True, down=True):
    return ExpertLora(
        pair(rank, HIDDEN, 2 * INNER, random) if up else None,
        pair(rank, INNER, HIDDEN, random) if down else None,
        rank,
        scale,
    )


def folded(low, weights, scale):
    """W + BA as PEFT reckons it, from fresh leaves; returns it and the leaves."""
    if low is None:
        return weights, ()
    a, b = low.a.clone().requires_grad_(), low.b.clone().requires_grad_()
    delta = torch.einsum("ore,eri->eio", b.reshape(len(b), -1, EXPERTS), a.reshape(EXPERTS, -1, a.shape[1]))
    return weights + delta * scale, ((a, low.a_grad), (b, low.b_grad))


def oracle(x, weights, chosen, frozen, stretches):
    outs, leaves, at = [], [], 0
    for stretch in stretches:
        first, second = frozen.first, frozen.second
        if stretch.lora is not None:
            first, more = folded(stretch.lora.gate_up, first, stretch.lora.scale)
            second, most = folded(stretch.lora.down, second, stretch.lora.scale)
            leaves += [*more, *most]
        for token in range(at, at + stretch.tokens):
            out = torch.zeros(HIDDEN)
            for share, expert in zip(weights[token], chosen[token].tolist(), strict=True):
                wide = x[token] @ first[expert]
                if frozen.biases is not None:
                    wide = wide + frozen.biases[0][expert]
                more = frozen.gate(wide) @ second[expert]
                if frozen.biases is not None:
                    more = more + frozen.biases[1][expert]
                out = out + share * more
            outs.append(out)
        at += stretch.tokens
    return torch.stack(outs), leaves


def close(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-5


def some_tokens(count, random):
    x = torch.randn(count, HIDDEN, generator=random).requires_grad_()
    weights = torch.rand(count, ACTIVE, generator=random).requires_grad_()
    chosen = torch.stack([torch.randperm(EXPERTS, generator=random)[:ACTIVE] for _ in range(count)])
    return x, weights, chosen


@pytest.mark.parametrize("kind", ["qwen", "gpt_oss"])
def test_equals_the_folded_weights_by_the_token(kind):
    random = torch.Generator().manual_seed(0)
    frozen = Frozen.of(experts(kind, random))
    stretches = [
        Stretch(5, lora(3, 0.5, random)),
        Stretch(4, None),
        Stretch(1, lora(9, 2.0, random, down=False)),
        Stretch(3, lora(4, 1.0, random, up=False)),
        Stretch(8, lora(6, 0.7, random)),
    ]
    x, weights, chosen = some_tokens(21, random)
    slope = torch.randn(21, HIDDEN, generator=random)
    ours = split_experts(x, weights, chosen, frozen, stretches)
    ours.backward(slope)
    got = [x.grad, weights.grad]
    x.grad = weights.grad = None
    theirs, leaves = oracle(x, weights, chosen, frozen, stretches)
    theirs.backward(slope)
    assert close(ours, theirs) and close(got[0], x.grad) and close(got[1], weights.grad)
    assert len(leaves) == 12
    for leaf, grad in leaves:
        assert close(grad, leaf.grad)


def test_sides_that_grouped_products_cannot_take_are_multiplied_all_the_same():
    random = torch.Generator().manual_seed(1)
    module = experts("qwen", random)
    odd = INNER - 1  # 23 numbers are no multiple of 16 bytes
    module.gate_up_proj = torch.cat([module.gate_up_proj[:, :odd], module.gate_up_proj[:, INNER:-1]], 1)
    module.down_proj = module.down_proj[..., :odd]
    x, weights, chosen = some_tokens(7, random)
    low = pair(2, HIDDEN, 2 * odd, random)
    stretches = [Stretch(7, ExpertLora(low, None, 2, 1.0))]
    frozen = Frozen.of(module)
    ours = split_experts(x, weights, chosen, frozen, stretches)
    ours.sum().backward()
    theirs, leaves = oracle(x, weights, chosen, frozen, stretches)
    theirs.sum().backward()
    assert close(ours, theirs)
    assert all(close(grad, leaf.grad) for leaf, grad in leaves)


def test_a_neighbour_of_nans_changes_nothing():
    random = torch.Generator().manual_seed(2)
    frozen = Frozen.of(experts("qwen", random))
    mine, sick = lora(3, 1.0, random), lora(3, 1.0, random)
    x, weights, chosen = some_tokens(12, random)
    split_experts(x, weights, chosen, frozen, [Stretch(6, mine), Stretch(6, sick)]).sum().backward()
    well, alone = x.grad[:6].clone(), mine.gate_up.a_grad.clone()
    for tensor in (sick.gate_up.a, sick.down.b):
        tensor.fill_(float("nan"))
    mine.gate_up.a_grad.zero_()
    x.grad = None
    out = split_experts(x, weights, chosen, frozen, [Stretch(6, mine), Stretch(6, sick)])
    out.sum().backward()
    assert out[6:].isnan().all()
    assert torch.equal(x.grad[:6], well)
    assert torch.equal(mine.gate_up.a_grad, alone)
    assert not mine.down.b_grad.isnan().any()


def test_experts_nobody_is_sent_to_and_no_adapter_at_all():
    random = torch.Generator().manual_seed(3)
    frozen = Frozen.of(experts("qwen", random))
    x, weights, _ = some_tokens(5, random)
    chosen = torch.tensor([[1, 2]] * 5)
    theirs, _ = oracle(x, weights, chosen, frozen, [Stretch(5, None)])
    assert close(split_experts(x, weights, chosen, frozen, [Stretch(5, None)]), theirs)
