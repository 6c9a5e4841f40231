"""Kept requests on the wire: OpenAI's stored chat completions, and what a project opts for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from graftwork.api.wire.base import Body, TolerantBody, Wire
from graftwork.control.services.kept import Holdings
from graftwork.core.nouns import KeptRequest
from graftwork.store.kept import unpacked

Json = dict[str, Any]
Text = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], Text], Field(max_length=16)]


class KeepingBody(Body):
    """What ``PUT /api/kept`` changes; what is left out stays."""

    mode: Literal["off", "asked", "all"] | None = None
    days: Annotated[int, Field(ge=1, le=365)] | None = None
    redact: bool | None = None


class Kept(Wire):
    """What a project opted for, and what is kept of it."""

    mode: str
    days: int
    redact: bool
    requests: int
    bytes: int


class Forgotten(Wire):
    """How many requests were deleted."""

    deleted: int


class FromLogsBody(Body):
    """What ``graft dataset from-logs`` is told; times are unix seconds."""

    model: str | None = None
    since: float | None = None
    until: float | None = None
    limit: Annotated[int, Field(ge=1, le=50_000)] = 50_000
    near: Annotated[float, Field(gt=0, le=1)] | None = None


class DescribeBody(TolerantBody):
    """OpenAI's update of a stored completion."""

    metadata: Metadata | None


class Deleted(Wire):
    """A stored completion is gone."""

    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    id: str
    deleted: bool = True


def kept_wire(holdings: Holdings) -> Kept:
    """Holdings as they are sent."""
    keeping = holdings.keeping
    return Kept(
        mode=keeping.mode,
        days=keeping.days,
        redact=keeping.redact,
        requests=holdings.requests,
        bytes=holdings.bytes,
    )


def completion_wire(kept: KeptRequest) -> Json:
    """A kept request as OpenAI writes a stored completion: the answer, and what it was asked with."""
    document = unpacked(kept)
    settings = {key: value for key, value in document["request"].items() if key != "messages"}
    return {
        **settings,
        **document["answer"],
        "id": kept.id,
        "object": "chat.completion",
        "created": int(kept.created_at),
        "model": kept.model,
        "metadata": kept.metadata,
        "graftwork": {"version": kept.version, "model": kept.name, "expires_at": int(kept.expires_at)},
    }


def messages_wire(kept: KeptRequest) -> list[Json]:
    """The messages it was asked with, each with an id."""
    asked = unpacked(kept)["request"]["messages"]
    return [{"id": f"{kept.id}-{number}", **message} for number, message in enumerate(asked)]
