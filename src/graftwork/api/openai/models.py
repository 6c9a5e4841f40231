"""``/v1/models``."""

from __future__ import annotations

from fastapi import APIRouter

from graftwork.api.auth import Caller, OnGateway, OnPlatform
from graftwork.api.wire.base import List
from graftwork.api.wire.models import Model, ModelDeleted, model_wire

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(caller: Caller, platform: OnPlatform) -> List[Model]:
    """Base models and the project's own."""
    return List(data=[model_wire(view) for view in await platform.models.list(caller.project_id)])


@router.get("/{name:path}")
async def retrieve_model(name: str, caller: Caller, platform: OnPlatform) -> Model:
    """One model by any name that may be sent as ``model``."""
    return model_wire(await platform.models.get(caller.project_id, name))


@router.delete("/{name:path}")
async def delete_model(name: str, caller: Caller, platform: OnPlatform, gateway: OnGateway) -> ModelDeleted:
    """Delete a fine-tuned model of the project."""
    view = await platform.models.delete(caller.project_id, name)
    await gateway.refresh()
    return ModelDeleted(id=view.name)
