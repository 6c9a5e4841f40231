"""Beginning with an adapter that exists: of a version, or of a checkpoint of another run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from graftwork.core.errors import InvalidRequest, PlatformError
from graftwork.core.specs import LoraSpec, RunSpec
from graftwork.runs import layout
from graftwork.runs.reader import RunReader
from graftwork.training.checkpoints import pour
from graftwork.training.engine import Adapter
from graftwork.training.export import CONFIG, WEIGHTS, config_of


def begin_from(reader: RunReader, spec: RunSpec, adapter: Adapter) -> None:
    """Give a fresh adapter the weights of the run's start.

    Raises:
        PlatformError: ``run_folder_corrupt``, the files are not those of the specification.
        InvalidRequest: ``start_mismatch``, they are of another shape than the run's adapter.
    """
    assert spec.start is not None
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        reader.fetch(layout.START, spec.start.files, Path(folder))
        config, tensors = read_adapter(Path(folder))
    wanted = config_of(adapter, spec.lora, spec.base)
    for key in (
        "r",
        "lora_alpha",
        "target_modules",
        "use_rslora",
        "use_dora",
        "target_parameters",
        "rank_pattern",
    ):
        if _plain(config.get(key)) != _plain(wanted.get(key)):
            raise mismatch(spec.start.model, key, config.get(key), wanted.get(key), spec.lora)
    try:
        pour(tensors, adapter, adapter.weights)
    except PlatformError as error:
        raise mismatch(spec.start.model, "tensors", "others", "this run's", spec.lora) from error


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and tensors of an adapter in PEFT's format.

    Raises:
        PlatformError: ``run_folder_corrupt``, it cannot be read.
    """
    try:
        return json.loads((folder / CONFIG).read_bytes()), load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise PlatformError(
            f"The adapter to start from cannot be read: {error}.",
            fix="Start the job again.",
            code="run_folder_corrupt",
        ) from error


def mismatch(model: str, what: str, has: object, wants: object, lora: LoraSpec) -> InvalidRequest:
    """The error of a start that is of another shape than the adapter to be trained."""
    return InvalidRequest(
        f"{model} cannot be continued: its {what} is {has}, and the job asks for {wants}.",
        fix="Leave graftwork.lora out: a job that continues takes the shape of what it continues.",
        code="start_mismatch",
        param="graftwork.lora",
        details={"rank": lora.rank},
    )


def _plain(value: object) -> object:
    """Equal for what PEFT holds to be equal: an absent flag is off, the order of targets is nothing."""
    if isinstance(value, list):
        return sorted(map(str, value))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value or False
