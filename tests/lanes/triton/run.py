"""Run by the lane's own Python, which has torch and Triton alone: the kernels against PyTorch in fp64.

Prints one JSON object: for each case its greatest deviation, relative to the greatest number wanted.
"""

import importlib.util
import itertools
import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch.nn import functional

spec = importlib.util.spec_from_file_location("kernels", sys.argv[1])
kernels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernels)

EPS = 1e-6
found = {}


def draw(*shape, kind=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(kind)


def held(name, kind, one, other):
    key = f"{name} {str(kind).removeprefix('torch.')}"
    assert torch.equal(one.isnan(), other.isnan()), key
    one, other = one.double().nan_to_num(), other.double().nan_to_num()
    found[key] = max(found.get(key, 0.0), float((one - other).abs().max() / other.abs().max()))


def norms(kind, rows, width):
    x, weight, slope = (draw(*shape, kind=kind) for shape in ((rows, width), (width,), (rows, width)))
    x[0, 0] = torch.nan
    leaf = x.double().requires_grad_()
    wanted = functional.rms_norm(leaf, (width,), weight.double(), EPS)
    wanted.backward(slope.double())
    out, scale, back = torch.empty_like(x), torch.empty(rows, 1), torch.empty_like(x)
    kernels.run("norm", x, weight, out, scale, rows, width, EPS)
    held("norm", kind, out, wanted.detach())
    kernels.run("norm_back", slope, x, weight, scale, back, rows, width)
    held("norm_back", kind, back, leaf.grad)


def turns(kind, tokens, heads, size, normed, apart):
    """Queries in a wider product: ``apart`` numbers lie between one token's heads and the next's."""
    wide = draw(tokens, heads * size + apart, kind=kind)
    x = wide[:, : heads * size].unflatten(1, (heads, size))
    angles = draw(tokens, size // 2).repeat(1, 2)
    cosine, sine, slope = angles.cos().to(kind), angles.sin().to(kind), draw(tokens, heads, size, kind=kind)
    weight = draw(size, kind=kind) if normed else None
    leaf = x.double().requires_grad_()
    made = functional.rms_norm(leaf, (size,), weight.double(), EPS) if normed else leaf
    low, high = made.chunk(2, -1)
    wanted = made * cosine.double()[:, None] + torch.cat((-high, low), -1) * sine.double()[:, None]
    wanted.backward(slope.double())
    out, scale = torch.empty(tokens, heads, size, dtype=kind), torch.empty(tokens, heads, 1)
    given = (cosine, sine, weight)
    kernels.run("turn", x, x.stride(0), *given, out, scale if normed else None, tokens, heads, size, EPS)
    held("turn", kind, out, wanted.detach())
    into = torch.full_like(wide, 7.0)
    heads_of = into[:, : heads * size].unflatten(1, (heads, size))
    given = (*given, scale if normed else None)
    kernels.run("turn_back", slope, x, x.stride(0), *given, heads_of, into.stride(0), tokens, heads, size)
    held("turn_back", kind, heads_of, leaf.grad)
    assert (into[:, heads * size :] == 7.0).all(), "it wrote beyond the heads"


def gates(kind, rows, half):
    both, slope = draw(rows, 2 * half, kind=kind) * 8, draw(rows, half, kind=kind)
    both[0, half + 1] = torch.nan
    leaf = both.double().requires_grad_()
    wanted = functional.silu(leaf[:, :half]) * leaf[:, half:]
    wanted.backward(slope.double())
    out, back = torch.empty(rows, half, dtype=kind), both.clone()
    kernels.run("gate", both, out, rows, half)
    held("gate", kind, out, wanted.detach())
    kernels.run("gate_back", slope, back, rows, half)
    held("gate_back", kind, back, leaf.grad)


def answers(rows, width, sloped):
    logits, slopes = draw(rows, width) * 20, draw(rows).abs()
    targets = torch.arange(rows) * 37 % width
    targets[1] = logits[1].argmax()
    logits[0, 2] = torch.nan
    leaf = logits.double().requires_grad_()
    wanted = functional.cross_entropy(leaf, targets, reduction="none")
    (wanted * slopes.double()).sum().backward()
    losses, hits = torch.empty(rows), torch.empty(rows, dtype=torch.bool)
    kernels.run("answer", logits, targets, slopes if sloped else None, losses, hits, rows, width)
    held("losses", torch.float32, losses, wanted.detach())
    assert hits.tolist()[1:] == (leaf.argmax(1) == targets).tolist()[1:], "hits"
    if sloped:
        held("answer", torch.float32, logits, leaf.grad)


for kind in (torch.float32, torch.bfloat16):
    for rows, width in ((3, 24), (5, 128), (2, 1000)):
        norms(kind, rows, width)
    for size, normed, apart in itertools.product((8, 24, 128), (True, False), (0, 40)):
        turns(kind, 5, 3, size, normed, apart)
    for rows, half in ((2, 24), (3, 1024), (2, 1500)):
        gates(kind, rows, half)
    kernels.trial(torch.device("cpu"), kind)
for sloped in (True, False):
    for width in (50, 1024, 2500):
        answers(4, width, sloped)
print(json.dumps(found))
