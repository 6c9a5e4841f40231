"""Exports on the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr

from graftwork.api.wire.base import Body, Wire
from graftwork.core.nouns import Export

Format = Literal["peft", "merged", "gguf", "lora-gguf", "ollama", "lmstudio"]
Quant = Literal["f16", "q8_0", "q4_k_m"]


class ExportBody(Body):
    """Have a version written in another format."""

    format: Format
    quant: Quant = "f16"
    """How a GGUF holds the weights."""
    with_base: bool = False
    """lora-gguf: the base model's own GGUF too."""


class PushBody(Body):
    """Have a version pushed to the Hugging Face Hub."""

    repository: Annotated[str, Field(max_length=200, pattern=r"^[\w.-]+/[\w.-]+$")]
    token: SecretStr
    """One that may write there; it is kept until the push has ended, in memory alone."""
    private: bool = True
    """Whether a repository made for this is private; one that is there stays as it is."""
    format: Format = "peft"
    quant: Quant = "f16"


class ExportFile(Wire):
    """One file of an export."""

    path: str
    sha256: str
    bytes: int


class ExportWire(Wire):
    """One export."""

    id: str
    version: str
    """Id of the version."""
    format: str
    quant: str
    repository: str | None
    state: str
    """pending | succeeded | failed."""
    created_at: float
    finished_at: float | None
    files: list[ExportFile]
    url: str | None
    """Where the Hub shows what was pushed."""
    error: dict[str, Any] | None


def export_wire(export: Export) -> ExportWire:
    """An export for its owner."""
    return ExportWire(
        id=export.id,
        version=export.version_id,
        format=export.format,
        quant=export.quant,
        repository=export.repository,
        state=str(export.state),
        created_at=export.created_at,
        finished_at=export.finished_at,
        files=[ExportFile(path=path, **file) for path, file in sorted((export.files or {}).items())],
        url=export.url,
        error=export.error,
    )
