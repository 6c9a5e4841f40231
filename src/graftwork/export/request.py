"""What an export process is asked on its standard input, and what it answers on its standard output."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, SecretStr

Format = Literal["peft", "merged", "gguf", "lora-gguf", "ollama", "lmstudio"]
Quant = Literal["f16", "q8_0", "q4_k_m"]


class Words(BaseModel):
    """Base of both: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class About(Words):
    """What a card says of a version."""

    name: str
    """A plain name for files and models: ``support-3``."""
    title: str
    """``support@3``."""
    publisher: str
    """The organization, as a plain name."""
    base: str
    base_repository: str
    base_revision: str
    licence: str
    facts: dict[str, str]
    scores: dict[str, dict[str, float]] = {}


class Push(Words):
    """Where on the Hub the files go."""

    repository: str
    private: bool
    token: SecretStr
    endpoint: str | None = None
    """Another Hub than the public one."""


class Request(Words):
    """One export."""

    format: Format
    quant: Quant
    base: Path
    adapter: Path
    into: Path
    """A folder that is not there yet."""
    about: About
    with_base: bool = False
    """lora-gguf: the base model's GGUF too."""
    push: Push | None = None


class Answer(Words):
    """How it ended: files by path below ``into``, or an error."""

    files: list[str] = []
    url: str | None = None
    """Where the Hub shows what was pushed."""
    code: str | None = None
    message: str | None = None
    fix: str = ""
    user: bool = False
    """Whether the error is the caller's to mend."""
