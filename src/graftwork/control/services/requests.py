"""What a customer may ask of a job: checked here, once, for the API, the CLI and the dashboard alike."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from graftwork.control.services.methods import DpoHyperparameters, resolved
from graftwork.core import ids
from graftwork.core.errors import InvalidRequest
from graftwork.core.money import parse_dollars
from graftwork.core.nouns import Json
from graftwork.core.specs import Hyperparameters, Spec, TrainingOptions

MAX_SEED = 2**31 - 1
METADATA_PAIRS, METADATA_KEY, METADATA_VALUE = 16, 64, 512
SUFFIX = (1, 64)

_S = TypeVar("_S", bound=Spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A request to train, as it came: names and plain JSON, nothing checked yet."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    method: str | None = None
    """``supervised`` or ``dpo``; None: as ``options`` say, else supervised."""
    hyperparameters: Mapping[str, Any] | None = None
    """``n_epochs``, ``batch_size``, ``learning_rate_multiplier``, for DPO ``beta``: numbers or ``auto``."""
    options: Mapping[str, Any] | None = None
    """Graftwork's own knobs (``TrainingOptions``), sent as ``extra_body={"graftwork": {...}}``."""
    metadata: Mapping[str, str] | None = None
    integrations: list[Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRequest:
    """A request whose fields are all in range."""

    suffix: str | None
    adapter: str | None
    """Name of the adapter; None when no suffix names one (the job's own tail is used then)."""
    seed: int
    hyperparameters: Hyperparameters
    beta: float | str | None
    """As asked; None for another method than DPO."""
    options: TrainingOptions
    """With the method and its trainer resolved."""
    metadata: dict[str, str] | None


def check_request(request: JobRequest) -> CheckedRequest:
    """Check every field that needs no look-up.

    Raises:
        InvalidRequest: the first field that is wrong, named in ``param``.
    """
    if request.integrations:
        raise InvalidRequest(
            "This server has no integrations to send a job's metrics to.",
            fix="Leave integrations out; metrics are in the job's events and its result file.",
            code="integrations_unsupported",
            param="integrations",
        )
    seed = request.seed
    if seed is not None and (isinstance(seed, bool) or not 0 <= seed <= MAX_SEED):
        raise InvalidRequest(f"seed must be between 0 and {MAX_SEED}.", fix="Send such a seed.", param="seed")
    options = _parse(TrainingOptions, request.options, "graftwork")
    _check_cap(options)
    is_dpo = request.method == "dpo" or (request.method is None and options.method == "dpo")
    kind = DpoHyperparameters if is_dpo else Hyperparameters
    asked = _parse(kind, request.hyperparameters, "hyperparameters").model_dump()
    beta = asked.pop("beta", None)
    options = resolved(request.method, options, beta)
    return CheckedRequest(
        suffix=request.suffix,
        adapter=None if request.suffix is None else _adapter_name(request.suffix),
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        hyperparameters=Hyperparameters.model_validate(asked),
        beta=beta,
        options=options,
        metadata=_metadata(request.metadata),
    )


def body_hash(request: JobRequest) -> str:
    """What an ``Idempotency-Key`` is bound to: a hash of the whole request."""
    return hashlib.sha256(json.dumps(asdict(request), sort_keys=True, default=str).encode()).hexdigest()


def _adapter_name(suffix: str) -> str:
    if not SUFFIX[0] <= len(suffix) <= SUFFIX[1]:
        raise InvalidRequest(
            f"suffix must have {SUFFIX[0]} to {SUFFIX[1]} characters.",
            fix="Send a name such as 'support', or leave suffix out.",
            param="suffix",
        )
    name = ids.slug(suffix)
    if not name:
        raise InvalidRequest(
            f"suffix {suffix!r} holds none of a-z and 0-9, so no adapter can be named by it.",
            fix="Use Latin letters, digits, '-' and '_', for example 'support'.",
            param="suffix",
        )
    return name


def _check_cap(options: TrainingOptions) -> None:
    if options.max_cost is None:
        return
    try:
        parse_dollars(options.max_cost)
    except ValueError as error:
        raise InvalidRequest(
            f"max_cost: {error}.", fix="Send dollars as text, for example '5'.", param="graftwork.max_cost"
        ) from error


def _metadata(metadata: Mapping[str, str] | None) -> dict[str, str] | None:
    if metadata is None:
        return None
    if len(metadata) > METADATA_PAIRS:
        raise InvalidRequest(
            f"metadata has {len(metadata)} pairs, at most {METADATA_PAIRS} are allowed.",
            fix="Send fewer.",
            param="metadata",
        )
    for key, value in metadata.items():
        if not isinstance(value, str) or not 1 <= len(key) <= METADATA_KEY or len(value) > METADATA_VALUE:
            raise InvalidRequest(
                f"metadata {key[:METADATA_KEY]!r}: keys have 1 to {METADATA_KEY} characters, values are "
                f"text of at most {METADATA_VALUE}.",
                fix="Shorten it.",
                param="metadata",
            )
        if "\x00" in key + value:
            raise InvalidRequest("metadata holds a NUL character.", fix="Remove it.", param="metadata")
    return dict(metadata)


def _parse(spec: type[_S], asked: Mapping[str, Any] | None, param: str) -> _S:
    try:
        return spec.model_validate(dict(asked or {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # The tail of a location names the branch of a union ("int", "constrained-int"): not a field.
        field = ".".join([param, *(str(part) for part in first["loc"] if str(part) in _names(spec))])
        raise InvalidRequest(
            f"{field}: {first['msg']}.", fix="See the documentation for its range.", param=field
        ) from error


def _names(spec: type[Spec]) -> set[str]:
    names: set[str] = set()
    for name, field in spec.model_fields.items():
        names.add(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Spec):
            names |= _names(field.annotation)
    return names
