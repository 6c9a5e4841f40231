"""Models on the wire."""

from __future__ import annotations

from typing import Any, Literal

from graftwork.api.wire.base import Wire
from graftwork.control.views import ModelView
from graftwork.models import CatalogueEntry
from graftwork.models.sheet import sheet


class ModelExtras(Wire):
    """What OpenAI's model has no field for."""

    kind: str
    ready: bool
    reason: str | None
    version: str | None


class Model(Wire):
    """OpenAI's ``model``."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    graftwork: ModelExtras


class ModelDeleted(Wire):
    """A fine-tuned model is gone."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool = True


class CatalogueModel(Wire):
    """A base model with what it costs: prices in micro-dollars per million tokens."""

    name: str
    repository: str
    revision: str
    family: str
    parameters: int
    active_parameters: int
    """Of the layers, those that one token meets."""
    context: int
    licence: str
    prices: dict[str, int]
    """``train``, ``input`` and ``output``."""
    trainers: list[str]
    engines: list[str]


class ModelSheet(CatalogueModel):
    """A base model with all that is known of it; the plain values are ``models.sheet``'s."""

    source: str
    lora_learning_rate: float
    rate_reason: str
    shape: dict[str, Any]
    targets: dict[str, list[str]]
    """Names for ``graftwork.lora.targets``, by the part of the model they are in."""
    adapter: dict[str, int | None]
    """``rank``, ``expert_rank`` and ``parameters`` of the default adapter."""
    serving: dict[str, str]
    """Engine to why it cannot serve the default adapter; empty text where it can."""
    unseen: dict[str, str]
    """Engine to what of its serving such an adapter could not be run by our tests."""
    memory: list[dict[str, Any]]
    """Peak bytes of a run by device, quantization and method."""
    chat: str
    notes: str


def model_wire(view: ModelView) -> Model:
    """A model as OpenAI writes it."""
    extras = ModelExtras(kind=view.kind, ready=view.ready, reason=view.reason, version=view.version)
    return Model(id=view.name, created=int(view.created_at), owned_by=view.owner, graftwork=extras)


def catalogue_wire(entry: CatalogueEntry) -> CatalogueModel:
    """A base model for whoever chooses one."""
    prices = entry.prices
    return CatalogueModel(
        name=entry.name,
        repository=entry.repository,
        revision=entry.revision,
        family=entry.family,
        parameters=entry.parameters,
        active_parameters=entry.shape.active_parameters,
        context=entry.context,
        licence=entry.licence,
        prices={"train": prices.train, "input": prices.input, "output": prices.output},
        trainers=list(entry.trainers),
        engines=list(entry.engines),
    )


def sheet_wire(entry: CatalogueEntry) -> ModelSheet:
    """A base model for whoever looks closer."""
    known = sheet(entry)
    known.pop("active_parameters")
    return ModelSheet(
        **catalogue_wire(entry).model_dump(),
        source=entry.source,
        lora_learning_rate=entry.lora_learning_rate,
        rate_reason=entry.rate_reason,
        **known,
    )
