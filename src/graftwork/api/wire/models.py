"""Models on the wire."""

from __future__ import annotations

from typing import Literal

from graftwork.api.wire.base import Wire
from graftwork.control.views import ModelView
from graftwork.models import CatalogueEntry


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
    context: int
    licence: str
    prices: dict[str, int]
    """``train``, ``input`` and ``output``."""
    trainers: list[str]
    engines: list[str]


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
        context=entry.context,
        licence=entry.licence,
        prices={"train": prices.train, "input": prices.input, "output": prices.output},
        trainers=list(entry.trainers),
        engines=list(entry.engines),
    )
