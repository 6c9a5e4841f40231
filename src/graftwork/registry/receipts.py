"""Manifests: what a version is made of and how it came to be; their hashes are the versions' ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import JsonValue

from graftwork.core.nouns import Json
from graftwork.core.specs import (
    BaseRef,
    Hyperparameters,
    LoraSpec,
    Method,
    PreferenceOptions,
    Quantization,
    Schedule,
    Spec,
    StartRef,
    TrainerName,
)
from graftwork.core.states import Verdict


class DataReceipt(Spec):
    """One data set that went in, by the hash of its canonical rows."""

    sha256: str
    rows: int
    file: str | None = None
    """Id of the uploaded file it came from; None for rows held out of the training file."""


class EvaluationReceipt(Spec):
    """What the gate saw and said."""

    id: str
    verdict: Verdict
    digest: str
    """sha256 of the canonical JSON of the whole report."""
    report: dict[str, JsonValue]


class Receipt(Spec):
    """The lineage of a version: everything needed to say where it came from, and to make it again."""

    format: Literal[1] = 1
    job_id: str
    base: BaseRef
    tokenizer_hash: str
    template_hash: str
    train: DataReceipt
    valid: DataReceipt | None
    code_version: str
    method: Method = "sft"
    preference: PreferenceOptions | None = None
    trainer: TrainerName = "native"
    quantization: Quantization = "none"
    start: StartRef | None = None
    """The version or checkpoint whose weights it began with; None for a fresh adapter."""
    lora: LoraSpec
    asked: Hyperparameters
    schedule: Schedule
    seed: int
    trained_tokens: int
    step: int
    """The training step whose weights these are."""
    evaluation: EvaluationReceipt | None
    verdict: Verdict
    """The gate's; inconclusive where nothing was evaluated."""
    cost: int
    """Micro-dollars billed for the trained tokens."""
    created_at: float


def canonical(document: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8, no NaN. Equal documents give equal bytes.

    Raises:
        ValueError: the document holds NaN or an infinity.
    """
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(document: Any) -> str:
    """sha256 of the canonical JSON of a document, in hex."""
    return hashlib.sha256(canonical(document)).hexdigest()


def manifest(files: Mapping[str, str], receipt: Receipt) -> Json:
    """The manifest of a version: file names with the sha256 of their bytes, and the receipt."""
    return {"format": 1, "files": dict(sorted(files.items())), "receipt": receipt.model_dump(mode="json")}


def version_id(document: Json) -> str:
    """The id of the version with this manifest: any other file, name, byte or receipt gives another id."""
    return digest(document)


def receipt_of(document: Json) -> Receipt:
    """The receipt in a stored manifest."""
    return Receipt.model_validate(document["receipt"])
