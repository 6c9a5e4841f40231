"""``/api/health``, ``/api/doctor`` and ``/api/models``: the installation itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from graftwork import __version__
from graftwork.api.auth import Caller, OnPlatform
from graftwork.api.wire.base import List, Wire
from graftwork.api.wire.models import CatalogueModel, ModelSheet, catalogue_wire, sheet_wire

router = APIRouter(prefix="/api", tags=["system"])


class Health(Wire):
    """The server answers."""

    status: str = "ok"
    version: str = __version__


@router.get("/health")
async def health() -> Health:
    """Whether the server answers; needs no key and says nothing else."""
    return Health()


@router.get("/doctor")
async def doctor(_: Caller, platform: OnPlatform) -> dict[str, list[dict[str, Any]]]:
    """Checks of this installation, each with what was seen and what to do."""
    return {"checks": await platform.doctor()}


@router.get("/models")
async def catalogue(_: Caller, platform: OnPlatform) -> List[CatalogueModel]:
    """Base models that can be trained and served, with prices."""
    return List(data=[catalogue_wire(entry) for entry in platform.bases.list()])


@router.get("/models/{name:path}")
async def model(name: str, _: Caller, platform: OnPlatform) -> ModelSheet:
    """All that is known of one base model: shape, LoRA targets, engines, memory by method."""
    return sheet_wire(await platform.bases.get(name))
