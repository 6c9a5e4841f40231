"""Which parts of a model an adapter changes, and under which names PEFT knows them.

Linear modules go by their last name (``target_modules``). Stacked experts are parameters
(``target_parameters``, ``mlp.experts.down_proj``), named ``experts`` by a customer, at a rank of their own.
Beside experts, PEFT takes ``gate_proj``, ``up_proj`` and ``down_proj`` among the modules for old names of the
experts; those of a shared expert or a dense layer are therefore named as parameters too
(``mlp.shared_expert.up_proj.weight``), which gives the same tensors under the same names. The router is never
adapted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import LoraSpec
from graftwork.training.nf4 import held

EXPERTS = "experts"
"""What a customer calls the routed experts in ``lora.targets``."""
STACKS = ("gate_up_proj", "down_proj")
"""The stacked parameters of a module of experts, in the order of their declaration."""
_TAKEN = frozenset(("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"))
"""Module names that PEFT takes for experts of transformers 4 in a model that has experts."""
_ROUTERS = frozenset(("gate", "router"))


@dataclass(frozen=True, slots=True)
class Targets:
    """What an adapter changes.

    Attributes:
        modules: ``target_modules`` of its config, sorted; parameters: its ``target_parameters``.
        linears: full names of the linear modules, in the model's order; stacks: of the modules of experts.
        expert_rank: rank on each expert; None without any.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    linears: tuple[str, ...]
    stacks: tuple[str, ...]
    expert_rank: int | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """What adapters may change in a model, as it is before the first of them."""

    linears: tuple[str, ...]
    """Full names of the linear modules, in the model's order; head and router left out."""
    stacks: tuple[str, ...]
    """Full names of the modules of experts."""
    active: int
    """Experts that a token is routed to; 1 of a dense model."""

    @classmethod
    def of(cls, model: nn.Module, decoder: nn.Module, head: nn.Module) -> Inventory:
        """What is in ``decoder``, with names as in ``model``."""
        inside = {id(module) for module in decoder.modules()} - {id(head)}
        named = {name: module for name, module in model.named_modules() if id(module) in inside}
        stacks = tuple(name for name, module in named.items() if is_experts(module))
        around = {name.rpartition(".")[0] for name in stacks}
        linears = tuple(
            name
            for name, module in named.items()
            if isinstance(module, nn.Linear)
            and not (name.rpartition(".")[0] in around and _last(name) in _ROUTERS)
        )
        return cls(linears, stacks, _active(model))

    def targets(self, lora: LoraSpec) -> Targets:
        """What ``lora`` changes.

        Raises:
            InvalidRequest: ``unknown_target``, a name that is no linear module's last name, nor ``experts``
                where there are any; or DoRA on what PEFT knows only as a parameter.
        """
        known = {_last(name) for name in self.linears} | ({EXPERTS} if self.stacks else set())
        chosen = _chosen(lora, known, known & (_TAKEN | {EXPERTS}) if self.stacks else set())
        adapted = tuple(name for name in self.linears if _last(name) in chosen)
        as_parameters = [name for name in adapted if self.stacks and _last(name) in _TAKEN]
        stacks = self.stacks if EXPERTS in chosen else ()
        parameters = {f"{_tail(name)}.weight" for name in as_parameters}
        parameters |= {f"{_tail(name)}.{stack}" for name in stacks for stack in STACKS}
        return Targets(
            tuple(sorted({_last(name) for name in adapted if name not in as_parameters})),
            tuple(sorted(parameters)),
            adapted,
            stacks,
            expert_rank(lora, self.active) if stacks else None,
        )


def is_experts(module: nn.Module) -> bool:
    """Whether ``module`` holds experts as transformers stacks them: gate and up in one, and down."""
    own = dict(module.named_parameters(recurse=False))
    return all((name in own and own[name].dim() == 3) or held(module, name) for name in STACKS)


def expert_rank(lora: LoraSpec, active: int) -> int:
    """Rank on each expert: as asked, or the adapter's shared among the experts that a token meets.

    Source: "LoRA Without Regret" (Thinking Machines, 2025): so the number of weights that a token meets is
    that of the same LoRA on a dense layer.
    """
    return lora.expert_rank or max(1, lora.rank // max(active, 1))


def expert_alpha(lora: LoraSpec, rank: int) -> float:
    """The alpha that gives experts of ``rank`` the scale of all other targets."""
    share = rank / lora.rank
    return lora.alpha * (math.sqrt(share) if lora.rslora else share)


def expert_spread(lora: LoraSpec, rank: int) -> float:
    """How much wider A is drawn for experts of ``rank``.

    The scale is one for all targets, so that every reader of the adapter has it right. A of a lower rank is
    drawn wider instead by what alpha / rank would have scaled it: its first steps move the output as much.
    """
    share = lora.rank / rank
    return math.sqrt(share) if lora.rslora else share


def parameter_config(
    parameters: tuple[str, ...], expert_rank: int | None, lora: LoraSpec
) -> dict[str, object]:
    """What an adapter of parameters adds to its config.

    Experts of another rank get an alpha that leaves the scale everywhere the same: readers that know no
    patterns (vLLM) then scale rightly. PEFT refuses dropout beside parameters, and a reader needs none.
    """
    config: dict[str, object] = {"target_parameters": sorted(parameters), "lora_dropout": 0.0}
    if expert_rank is not None and expert_rank != lora.rank:
        alpha = expert_alpha(lora, expert_rank)
        stacks = sorted(name for name in parameters if not name.endswith(".weight"))
        config["rank_pattern"] = dict.fromkeys(stacks, expert_rank)
        config["alpha_pattern"] = dict.fromkeys(stacks, int(alpha) if alpha.is_integer() else alpha)
    return config


def _chosen(lora: LoraSpec, known: set[str], not_by_dora: set[str]) -> set[str]:
    if lora.targets == "all-linear":
        return known - not_by_dora if lora.dora else known
    unknown = [target for target in lora.targets if target not in known]
    if unknown or not lora.targets:
        raise unknown_target(unknown, sorted(known))
    refused = sorted(not_by_dora.intersection(lora.targets)) if lora.dora else []
    if refused:
        raise InvalidRequest(
            f"DoRA cannot be had on {', '.join(refused)} of a mixture of experts.",
            fix="Leave these targets out, or use LoRA.",
            code="unknown_target",
            param="lora.targets",
        )
    return set(lora.targets)


def unknown_target(unknown: list[str], known: list[str]) -> InvalidRequest:
    """The error of targets that the model does not have."""
    return InvalidRequest(
        f"The base model has no linear module named {', '.join(unknown) or '(nothing)'}.",
        fix=f"Use all-linear, or some of: {', '.join(known)}.",
        code="unknown_target",
        param="lora.targets",
    )


def _active(model: nn.Module) -> int:
    """Experts that a token is routed to, from the model's config."""
    config = getattr(model, "config", None)  # a bare module has none
    text = config.get_text_config() if config is not None else None
    return int(getattr(text, "num_experts_per_tok", None) or 1)  # each family's config has its own fields


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _tail(name: str) -> str:
    """The part of a module's name behind its layer's number: the same in every layer."""
    words = name.split(".")
    numbers = [index for index, word in enumerate(words) if word.isdigit()]
    return ".".join(words[numbers[0] + 1 :] if numbers else words)
