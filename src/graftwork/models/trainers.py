"""What each trainer can do, in one place: planning refuses what it cannot, the docs' table is made of it.

The command trainers (all but ``native`` and ``trl``) are tools that the owner installs in environments of
their own. ``GRAFTWORK_TRAINER_<NAME>`` names the Python of each; one without is not configured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import Method, RunSpec, TrainerName

VARIABLE = "GRAFTWORK_TRAINER_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """What a trainer can be asked for.

    Attributes:
        package: what its environment must have installed; empty for what comes with Graftwork.
        methods: what it can learn by.
        nf4, dora, rslora, lora_plus, neftune: options of the same names.
        early_stopping: whether it stops when nothing gets better.
        start: whether it goes on from an adapter.
        expert_rank: whether experts of a mixture may have a rank of their own.
        resumes: whether a later attempt goes on from a checkpoint; else it starts again.
        gpu: whether it needs an accelerator.
    """

    package: str = ""
    methods: tuple[Method, ...] = ("sft", "cpt")
    nf4: bool = False
    dora: bool = False
    rslora: bool = False
    lora_plus: bool = False
    neftune: bool = False
    early_stopping: bool = False
    start: bool = False
    expert_rank: bool = False
    resumes: bool = True
    gpu: bool = False


EVERY: tuple[Method, ...] = ("sft", "dpo", "orpo", "kto", "cpt")
ABILITIES: dict[TrainerName, Ability] = {
    "native": Ability(
        methods=("sft", "dpo", "cpt"),
        nf4=True,
        dora=True,
        rslora=True,
        lora_plus=True,
        neftune=True,
        early_stopping=True,
        start=True,
        expert_rank=True,
    ),
    "trl": Ability(
        methods=EVERY,
        dora=True,
        rslora=True,
        lora_plus=True,
        neftune=True,
        early_stopping=True,
        start=True,
    ),
    "llamafactory": Ability(
        package="llamafactory", nf4=True, dora=True, rslora=True, lora_plus=True, neftune=True
    ),
    "axolotl": Ability(package="axolotl", nf4=True, dora=True, rslora=True, lora_plus=True, neftune=True),
    "unsloth": Ability(package="unsloth", nf4=True, rslora=True, neftune=True, gpu=True),
    "nemo": Ability(package="megatron-bridge", resumes=False, gpu=True),
    "neuron": Ability(package="optimum-neuron", resumes=False, gpu=True),
}
COMMANDS: tuple[TrainerName, ...] = tuple(name for name, ability in ABILITIES.items() if ability.package)
"""Trainers that are another tool's command."""


def variable_of(trainer: TrainerName) -> str:
    """Environment variable that holds the tool's Python."""
    return VARIABLE + trainer.upper()


def python_of(trainer: TrainerName, environment: Mapping[str, str]) -> str | None:
    """Path of the tool's Python, None where it is not configured."""
    return environment.get(variable_of(trainer)) or None


def configured(environment: Mapping[str, str]) -> dict[TrainerName, str]:
    """The command trainers that this machine has, each with its Python."""
    found: dict[TrainerName, str | None] = {name: python_of(name, environment) for name in COMMANDS}
    return {name: python for name, python in found.items() if python is not None}


def refuse(spec: RunSpec) -> None:
    """Refuse what the run's trainer cannot do, before anything is spent on it.

    Raises:
        InvalidRequest: ``trainer_cannot``, naming the field.
    """
    ability = ABILITIES[spec.trainer]
    for param, asked, able in _asked(spec, ability):
        if asked and not able:
            raise InvalidRequest(
                f"The {spec.trainer} trainer cannot do what {param} asks for.",
                fix=f"Leave {param} out, or use another trainer (docs/trainers.md).",
                code="trainer_cannot",
                param=param,
            )


def check(spec: RunSpec, supported: Sequence[str], environment: Mapping[str, str]) -> None:
    """Refuse a run that its trainer cannot train, that is not for its base model, or that nobody here runs.

    Args:
        spec: what is to be trained.
        supported: trainers of the base model's catalogue entry.
        environment: what machines are told.

    Raises:
        InvalidRequest: ``trainer_cannot``, ``trainer_not_for_model``, ``trainer_not_configured``.
    """
    if spec.trainer not in supported:
        raise InvalidRequest(
            f"The {spec.trainer} trainer does not take {spec.base.name}.",
            fix=f"Use one of {', '.join(supported)}, or leave graftwork.trainer out.",
            code="trainer_not_for_model",
            param="graftwork.trainer",
        )
    if spec.trainer in COMMANDS and python_of(spec.trainer, environment) is None:
        here = ", ".join(configured(environment)) or "none"
        raise InvalidRequest(
            f"The {spec.trainer} trainer is not configured on this server (of the tools' trainers: {here}).",
            fix=f"Let the server's owner set {variable_of(spec.trainer)}, or leave graftwork.trainer out.",
            code="trainer_not_configured",
            param="graftwork.trainer",
        )
    refuse(spec)


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by which machines learn what trainers they have."""
    return {variable_of(name): python for name, python in configured(environment).items()}


def _asked(spec: RunSpec, ability: Ability) -> list[tuple[str, bool, bool]]:
    """Fields with whether they ask for something, and whether the trainer can do it."""
    lora, schedule = spec.lora, spec.schedule
    return [
        ("method", True, spec.method in ability.methods),
        ("quantization", spec.quantization != "none", ability.nf4),
        ("lora.dora", lora.dora, ability.dora),
        ("lora.rslora", lora.rslora, ability.rslora),
        ("lora.alpha", bool(ability.package) and not lora.alpha.is_integer(), False),  # they want whole ones
        ("lora.expert_rank", lora.expert_rank is not None, ability.expert_rank),
        ("lora_plus", schedule.lora_plus not in (None, 1), ability.lora_plus),
        ("neftune_alpha", schedule.neftune_alpha is not None, ability.neftune),
        ("early_stopping", schedule.early_stopping is not None, ability.early_stopping),
        ("start", spec.start is not None, ability.start),
        (
            "accumulation",
            bool(ability.package) and schedule.batch_size % schedule.accumulation != 0,
            False,  # tools count whole micro-batches
        ),
    ]
