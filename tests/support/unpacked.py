"""The slow oracle of models in 4 bits: the same numbers as plain weights."""

from __future__ import annotations

import copy
from typing import Any


def unpacked(model: Any) -> Any:
    """A copy of ``model`` with plain weights in the place of packed ones, as bitsandbytes unpacks them."""
    from torch import nn

    from graftwork.training.nf4 import Nf4Linear, held
    from graftwork.training.targets import STACKS

    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, Nf4Linear):
            linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            linear.weight.data = module.weight
            if module.bias is not None:
                linear.bias.data = module.bias.data
            parent, _, last = name.rpartition(".")
            plain.get_submodule(parent).register_module(last, linear.requires_grad_(False))
            continue
        weights = {stack: packed.read() for stack in STACKS if (packed := held(module, stack))}
        if weights:
            # torch's own way of removing a parametrization would take it from the class, and the original
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for stack, weight in weights.items():
                module.register_parameter(stack, nn.Parameter(weight, requires_grad=False))
    return plain
