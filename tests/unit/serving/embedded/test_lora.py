"""The joined product gives every token its own adapter's part, and exactly nothing of another's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from graftwork.serving.embedded.adapters import Adapter, LinearShape, Pair
from graftwork.serving.embedded.lora import Mix, Mixer, wrap_linears

CPU = torch.device("cpu")


class Net(nn.Module):
    """Two linears under ``body`` and a head beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"one": nn.Linear(5, 7), "two": nn.Linear(7, 4, bias=False)})
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body["two"](torch.tanh(self.body["one"](x)))


def _adapter(name: str, rank: int, paths: dict[str, tuple[int, int]], size: float = 1.0) -> Adapter:
    pairs = {
        path: Pair(torch.randn(i, rank) * size, torch.randn(rank, o) * size) for path, (i, o) in paths.items()
    }
    return Adapter(name, Path(name), pairs)


ONE, TWO = {"body.one": (5, 7)}, {"body.two": (7, 4)}


@pytest.fixture
def world() -> tuple[Net, Mixer, list[Adapter]]:
    torch.manual_seed(0)
    net, mixer = Net(), Mixer()
    shapes = wrap_linears(net, mixer, "body")
    assert shapes == {"body.one": LinearShape(5, 7), "body.two": LinearShape(7, 4)}
    adapters = [_adapter("a", 2, ONE | TWO), _adapter("b", 5, ONE), _adapter("c", 3, TWO)]
    return net, mixer, adapters


def _alone(net: Net, adapter: Adapter | None, x: torch.Tensor) -> torch.Tensor:
    """One adapter, the textbook way."""

    def linear(path: str, value: torch.Tensor) -> torch.Tensor:
        out = net.get_submodule(path).frozen(value)
        pair = adapter.pairs.get(path) if adapter else None
        return out if pair is None else out + (value @ pair.down) @ pair.up

    return linear("body.two", torch.tanh(linear("body.one", x)))


@torch.no_grad()
def _mixed(net: Net, mixer: Mixer, owners: list[Adapter | None], x: torch.Tensor) -> torch.Tensor:
    mixer.begin(owners, CPU)
    try:
        return net(x[None])[0]
    finally:
        mixer.end()


@torch.no_grad()
def test_each_token_gets_its_own_adapter(world) -> None:
    net, mixer, (a, b, c) = world
    owners = [a, None, b, c, None, a, c, b, b]
    x = torch.randn(len(owners), 5)
    expected = torch.stack([_alone(net, owner, row) for owner, row in zip(owners, x, strict=True)])
    torch.testing.assert_close(_mixed(net, mixer, owners, x), expected)


@torch.no_grad()
def test_base_tokens_are_untouched_to_the_last_bit(world) -> None:
    net, mixer, (a, b, _) = world
    x = torch.randn(4, 5)
    plain = _mixed(net, mixer, [None] * 4, x)
    mixed = _mixed(net, mixer, [None, a, None, b], x)
    assert torch.equal(mixed[[0, 2]], plain[[0, 2]])


@torch.no_grad()
def test_infinite_and_missing_values_stay_in_their_own_rows(world) -> None:
    net, mixer, (a, b, _) = world
    huge = _adapter("huge", 2, ONE | TWO, size=1e38)
    x = torch.randn(6, 5)
    x[5] = float("nan")
    owners = [a, huge, None, b, huge, b]
    out = _mixed(net, mixer, owners, x)
    assert not torch.isfinite(out[1]).all()
    for row in (0, 2, 3):
        torch.testing.assert_close(out[row], _alone(net, owners[row], x[row]))


@torch.no_grad()
def test_an_adapter_of_a_former_iteration_is_not_applied(world) -> None:
    net, mixer, (a, b, c) = world
    x = torch.randn(2, 5)
    for owners in ([a, b], [c, c], [b, None], [None, None], [a, a]):
        expected = torch.stack([_alone(net, owner, row) for owner, row in zip(owners, x, strict=True)])
        torch.testing.assert_close(_mixed(net, mixer, owners, x), expected)


def test_a_mix_is_kept_for_part_of_it_and_not_for_ever() -> None:
    adapters = [_adapter(f"n{i}", 1, ONE) for i in range(9)]
    mix = Mix(adapters)
    assert mix.serves(set(adapters))
    assert mix.serves(set(adapters[:5]))
    assert not mix.serves(set(adapters[:2]))
    assert not mix.serves({_adapter("new", 1, ONE)})


def test_weights_of_unloaded_adapters_are_dropped() -> None:
    a, b = _adapter("a", 1, ONE), _adapter("b", 1, ONE)
    mixer = Mixer()
    mixer.begin([a, b], CPU)
    mixer.end()
    mixer.forget({a, b})
    assert mixer.mix.adapters == (a, b)
    mixer.forget({a})
    assert mixer.mix.adapters == ()
