"""What all wire types share."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class Wire(BaseModel):
    """An answer: exactly these fields, nulls written out."""

    model_config = ConfigDict(frozen=True)


class Body(BaseModel):
    """A request body of ours: an unknown key is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TolerantBody(BaseModel):
    """A request body of OpenAI's: keys we do not know are let through, as its SDKs may send newer ones."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class List(Wire, Generic[T]):
    """OpenAI's list of jobs, events or models."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False


class IdList(Wire, Generic[T]):
    """OpenAI's list of files or checkpoints, which names its ends."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Error(Wire):
    """What went wrong: OpenAI's four fields, and ours."""

    message: str
    type: str
    param: str | None
    code: str | None
    graftwork: dict[str, object] | None = None


class ErrorAnswer(Wire):
    """OpenAI's error envelope."""

    error: Error


def seconds(time: float | None) -> int | None:
    """Unix time in whole seconds, as OpenAI writes it."""
    return None if time is None else int(time)
