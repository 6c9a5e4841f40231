"""Bodies of ``/api/datasets``: helpers on stored files."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from graftwork.api.wire.base import Body
from graftwork.data.near import THRESHOLD

Share = Annotated[float, Field(ge=0, lt=1)]
Near = Annotated[float, Field(gt=0, le=1)] | None
"""Overlap from which rows count as near duplicates; null: only rows equal but for case and space."""


class SplitBody(Body):
    """What ``graft dataset split`` is told."""

    file: str
    valid: Share = 0.1
    test: Share = 0.0
    seed: int = 0
    near: Near = THRESHOLD


class DedupBody(Body):
    """What ``graft dataset dedup`` is told."""

    file: str
    near: Near = THRESHOLD


class SourceBody(Body):
    """One file of a mixture."""

    file: str
    weight: Annotated[float, Field(gt=0)] = 1.0


class MixBody(Body):
    """What ``graft dataset mix`` is told."""

    sources: Annotated[list[SourceBody], Field(min_length=1, max_length=64)]
    rows: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    seed: int = 0


class DiffBody(Body):
    """What ``graft dataset diff`` is told."""

    before: str
    after: str
    near: Annotated[float, Field(gt=0, le=1)] = THRESHOLD
