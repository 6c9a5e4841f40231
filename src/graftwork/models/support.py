"""Which architectures are trained and served here, and which parts an adapter may change: one table.

Trainers, engines, the catalogue and the plan all ask it, so what an engine cannot serve is said before
anything is trained. What it says of engines is what tests have shown (docs/models.md has their table).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import LoraSpec
from graftwork.models.memory import adapts
from graftwork.models.shape import Group, Shape

DENSE: tuple[Group, ...] = ("attention", "mlp")
MIXTURE: tuple[Group, ...] = ("attention", "experts")
COMMAND_TRAINERS = ("trl", "unsloth", "axolotl", "llamafactory", "nemo", "neuron")


@dataclass(frozen=True, slots=True)
class Engine:
    """How well an engine serves the adapters of a family.

    Attributes:
        why: why it does not serve the family at all; empty if it does.
        without: groups whose adapters it does not serve, each with the reason.
        unseen: what of it could not be run here, where the machine does not allow it. Its probes still decide
            before it answers anybody.
    """

    why: str = ""
    unseen: str = ""
    without: dict[Group, str] = field(default_factory=dict[Group, str])

    @property
    def serves(self) -> bool:
        """Whether it serves the family."""
        return not self.why


@dataclass(frozen=True, slots=True)
class Support:
    """What is done with one ``model_type``.

    Attributes:
        label: for people.
        targets: the parts an adapter may change.
        trainers: trainers that take the family, ours first.
        engines: by engine's name.
    """

    label: str
    targets: tuple[Group, ...]
    trainers: tuple[str, ...]
    engines: dict[str, Engine]

    @property
    def served_by(self) -> tuple[str, ...]:
        """Names of the engines that serve its adapters."""
        return tuple(name for name, engine in self.engines.items() if engine.serves)


_YES = Engine()
_VLLM_MIXTURE = Engine(
    unseen="reads them, but computes a mixture beside adapters by Triton only: not on a CPU, on a GPU not "
    "run here; merged: yes"
)
_VLLM_SINKS = Engine(
    without={"experts": "that vLLM reads adapters of its interleaved experts was not shown here"},
    unseen="not run here",
)

SUPPORT: dict[str, Support] = {
    "qwen3": Support("Qwen3", DENSE, ("native", *COMMAND_TRAINERS), {"embedded": _YES, "vllm": _YES}),
    "qwen2": Support("Qwen2", DENSE, ("native", *COMMAND_TRAINERS), {"embedded": _YES, "vllm": _YES}),
    "llama": Support("Llama", DENSE, ("native", *COMMAND_TRAINERS), {"embedded": _YES, "vllm": _YES}),
    "mistral": Support(
        "Mistral, sliding windows included",
        DENSE,
        ("native", *COMMAND_TRAINERS),
        {"embedded": _YES, "vllm": _YES},
    ),
    "qwen3_moe": Support(
        "Qwen3 mixture of experts",
        MIXTURE,
        ("native", "trl", "unsloth", "axolotl", "llamafactory", "nemo"),
        {"embedded": _YES, "vllm": _VLLM_MIXTURE},
    ),
    "qwen3_next": Support(
        "Qwen3-Next: linear attention, a mixture and a shared expert",
        ("attention", "linear_attention", "shared_expert", "experts"),
        ("native", "trl", "axolotl", "nemo"),
        {"embedded": _YES, "vllm": _VLLM_MIXTURE},
    ),
    "gemma3_text": Support(
        "Gemma 3, text only",
        DENSE,
        ("native", "trl", "unsloth", "axolotl", "llamafactory"),
        {"embedded": _YES, "vllm": _YES},
    ),
    "glm4": Support(
        "GLM-4",
        DENSE,
        ("native", "trl", "axolotl", "llamafactory"),
        {"embedded": _YES, "vllm": _YES},
    ),
    "gpt_oss": Support(
        "gpt-oss",
        MIXTURE,
        ("native", "trl", "unsloth", "axolotl"),
        {
            "embedded": _YES,
            "vllm": _VLLM_SINKS,
        },
    ),
}
"""By ``model_type`` of the config. Other families are refused: nobody has looked at them here."""

SERVED = tuple(family for family, support in SUPPORT.items() if support.engines["embedded"].serves)
"""Families the embedded engine serves."""


def support_of(family: str, where: str = "the model") -> Support:
    """What is done with a family.

    Raises:
        InvalidRequest: nothing (``model_unsupported``).
    """
    support = SUPPORT.get(family)
    if support is None:
        raise InvalidRequest(
            f"No engine here can serve {where}: its architecture is {family!r}, "
            f"not one of {', '.join(SUPPORT)}.",
            fix="Use a model of one of these architectures.",
            code="model_unsupported",
            param="model",
        )
    return support


def servers(shape: Shape, lora: LoraSpec) -> dict[str, str]:
    """For each engine why it cannot serve such an adapter of such a model; empty text if it can."""
    support = support_of(shape.family)
    groups = [linear.group for linear in shape.linears if adapts(lora, linear)]
    found: dict[str, str] = {}
    for name, engine in support.engines.items():
        reasons = [engine.why] if engine.why else [engine.without[g] for g in groups if g in engine.without]
        found[name] = reasons[0] if reasons else ""
    return found


def check_targets(shape: Shape, lora: LoraSpec) -> None:
    """Refuse targets that the model does not have.

    Raises:
        InvalidRequest: ``unknown_target``.
    """
    known = [name for names in shape.targets.values() for name in names]
    unknown = [] if lora.targets == "all-linear" else [name for name in lora.targets if name not in known]
    if unknown:
        raise InvalidRequest(
            f"The base model has no linear module named {', '.join(unknown)}.",
            fix=f"Use all-linear, or some of: {', '.join(dict.fromkeys(known))}.",
            code="unknown_target",
            param="lora.targets",
        )


def refuse_unserved(shape: Shape, lora: LoraSpec, where: str, engines: tuple[str, ...] = ()) -> None:
    """Refuse to train what could not be served afterwards.

    Args:
        where: the model's name.
        engines: those this installation has; empty: any.

    Raises:
        InvalidRequest: no engine serves such an adapter (``target_unserved``), with every engine's reason.
    """
    check_targets(shape, lora)
    found = {name: why for name, why in servers(shape, lora).items() if not engines or name in engines}
    if any(not why for why in found.values()):
        return
    reasons = "; ".join(f"{name}: {why}" for name, why in found.items()) or "none of them knows the model"
    groups = {group: names for group, names in shape.targets.items() if group != "experts"}
    plain = ", ".join(name for names in groups.values() for name in names)
    raise InvalidRequest(
        f"No engine here could serve such an adapter of {where} ({reasons}).",
        fix=f"Adapt other parts, e.g. lora.targets of {plain}; or take another base model or engine.",
        code="target_unserved",
        param="lora.targets",
    )
