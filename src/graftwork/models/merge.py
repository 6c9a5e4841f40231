"""A full checkpoint from a base model and an adapter, written shard by shard, without torch.

The result has the base's files: same shards, index, config, tokenizer and template, same types of numbers.
Each changed weight is computed in float32 and rounded once: W + scale * B @ A, and for DoRA
m * (W + scale * B @ A) / |W + scale * B @ A| with the norm of each row (Liu et al. 2024, arXiv:2402.09353, as
PEFT computes it). What lies in memory is a block of rows of one weight and the adapter.

Experts may lie stacked in the checkpoint (``mlp.experts.gate_up_proj``) or one by one
(``mlp.experts.3.gate_proj.weight``): the adapter's stacked halves are cut accordingly.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from graftwork.core.errors import Conflict, InvalidRequest
from graftwork.models.folder import missing_weights, read_config
from graftwork.models.lora import CONFIG, WEIGHTS, NotPlainLora, Part, parts_of
from graftwork.models.tensorfile import FLOATS, Floats, Place, TensorFile, decode, encode

MANIFEST = "manifest.json"
INDEX = "model.safetensors.index.json"
TRANSPOSED = ("gpt_oss",)
"""Architectures whose stacks of experts are [experts, in, out] and not [experts, out, in]."""
_COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*")
_BLOCK = 2 << 20
"""Numbers of a weight that are computed at a time: 8 MiB in float32."""
_CHUNK = 16 << 20
_EXPERT = re.compile(r"(?P<path>.+)\.(?P<number>\d+)\.(?P<name>gate_proj|up_proj|down_proj)\.weight")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of the result."""

    sha256: str
    bytes: int


@dataclass(slots=True)
class MergeManifest:
    """What was written; also in the folder as ``manifest.json``.

    Attributes:
        adapter: sha256 of the adapter's weights.
        changed: names of the checkpoint's tensors that are not the base's.
        files: all files but the manifest.
    """

    adapter: str
    changed: list[str] = field(default_factory=list)
    files: dict[str, FileRecord] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Change:
    """What is added to one matrix [out, in] of the checkpoint: ``scale * up @ down``."""

    part: Part
    up: Floats
    """[out, rank]."""
    down: Floats
    """[rank, in]."""
    magnitude: Floats | None = None

    def apply(self, rows: Floats, start: int) -> Floats:
        """The new values of rows [start, start + n), from their old ones [n, in]."""
        span = slice(start, start + len(rows))
        scaled = (self.up[span] @ self.down) * np.float32(self.part.scale)
        new: Floats = np.add(rows, scaled, dtype=np.float32)
        if self.magnitude is not None:
            new *= (self.magnitude[span] / np.linalg.norm(new, axis=1))[:, None].astype(np.float32)
        return new


def merge(base: Path, adapter: Path, into: Path) -> MergeManifest:
    """Write ``base`` with ``adapter`` merged in as the new folder ``into``; all of it, or nothing.

    Args:
        base: a checkpoint in safetensors, not quantized.
        adapter: LoRA, rsLoRA or DoRA in PEFT's format, trained on it.
        into: a folder that is not there yet; its parent is made.

    Raises:
        Conflict: ``into`` exists (``merge_target_exists``).
        InvalidRequest: the base cannot be merged into (``merge_unsupported``, ``model_folder_invalid``), or
            the adapter does not fit it or is none (``invalid_adapter``).
    """
    if into.exists():
        raise Conflict(
            f"{into} exists already.", fix="Name a folder that does not exist.", code="merge_target_exists"
        )
    into.parent.mkdir(parents=True, exist_ok=True)
    part = into.with_name(f".{into.name}.{secrets.token_hex(4)}.part")
    part.mkdir()
    try:
        manifest = _write(base, adapter, part)
        part.rename(into)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _sync(into.parent)
    return manifest


def _write(base: Path, adapter: Path, into: Path) -> MergeManifest:
    config = read_config(base)
    if config.get("quantization_config"):
        raise _unsupported("its weights are quantized")
    if missing := missing_weights(base):
        raise _unsupported(f"it lacks {', '.join(missing)}")
    shards = _shards(base)
    with TensorFile(adapter / WEIGHTS) as weights:
        parts = adapter_parts(adapter, weights, config)
        manifest = MergeManifest(adapter=_sha256(adapter / WEIGHTS))
        changes = _Changes(parts, weights, transposed=config.get("model_type") in TRANSPOSED)
        for shard in shards:
            with TensorFile(shard) as source:
                manifest.files[shard.name] = _merge_shard(source, changes, into / shard.name, manifest)
        if left := changes.unmatched():
            raise _misfit(f"the base has no weight for {', '.join(left)}{_tied(config, left)}")
    for path in sorted({p for pattern in _COPIED for p in base.glob(pattern) if p.is_file()}):
        if path.name != MANIFEST:
            shutil.copyfile(path, into / path.name)
            manifest.files[path.name] = FileRecord(_sha256(path), path.stat().st_size)
    (into / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    _sync(into)
    return manifest


def _merge_shard(source: TensorFile, changes: _Changes, target: Path, manifest: MergeManifest) -> FileRecord:
    digest = hashlib.sha256()
    with target.open("wb") as file:

        def put(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        put(source.header)
        for name, place in source.places.items():
            found = changes.of(name, place)
            if found is None:
                for start in range(0, place.end - place.start, _CHUNK):
                    put(source.raw(name, start, min(start + _CHUNK, place.end - place.start)))
            else:
                manifest.changed.append(name)
                for data in _changed(source, name, place, found):
                    put(data)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    return FileRecord(digest.hexdigest(), size)


def _changed(source: TensorFile, name: str, place: Place, matrices: list[_Change]) -> Iterator[bytes]:
    """The new bytes of a tensor that is one matrix, or a stack of them, block by block of rows."""
    if place.dtype not in FLOATS:
        raise _unsupported(f"{name} holds numbers of type {place.dtype}")
    outs, ins = place.shape[-2:]
    row = ins * FLOATS[place.dtype]
    step = max(1, _BLOCK // ins)
    for number, change in enumerate(matrices):
        for start in range(0, outs, step):
            end = min(start + step, outs)
            first = number * outs * row
            old = decode(source.raw(name, first + start * row, first + end * row), place.dtype)
            new = encode(change.apply(old.reshape(-1, ins), start), place.dtype)
            if not np.isfinite(decode(new, place.dtype)).all():
                raise _misfit(f"the merged {name} would hold numbers that are not finite in {place.dtype}")
            yield new


class MergedWeights:
    """The weights of a base model, with an adapter merged in or as they are, one at a time and not rounded.

    A context manager. Nothing of the base but its config and weights is read.

    Attributes:
        shapes: shapes of all tensors by name, in the order in which they lie.
    """

    def __init__(self, base: Path, adapter: Path | None) -> None:
        """Open all files.

        Raises:
            InvalidRequest: as ``merge``.
        """
        self._files = ExitStack()
        config = read_config(base)
        if config.get("quantization_config"):
            raise _unsupported("its weights are quantized")
        with ExitStack() as opened:
            shards = [opened.enter_context(TensorFile(shard)) for shard in _shards(base)]
            self._shards = {name: shard for shard in shards for name in shard.places}
            self.shapes = {name: shard.places[name].shape for name, shard in self._shards.items()}
            self._changes: _Changes | None = None
            if adapter is not None:
                weights = opened.enter_context(TensorFile(adapter / WEIGHTS))
                parts = adapter_parts(adapter, weights, config)
                self._changes = _Changes(parts, weights, transposed=config.get("model_type") in TRANSPOSED)
            self._files = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def read(self, name: str) -> Floats:
        """A tensor in float32. Raises ``InvalidRequest`` when the adapter does not fit it."""
        shard = self._shards[name]
        place = shard.places[name]
        if place.dtype not in FLOATS:
            raise _unsupported(f"{name} holds numbers of type {place.dtype}")
        values = shard.floats(name)
        found = self._changes.of(name, place) if self._changes is not None else None
        if found is None:
            return values
        stack = values.reshape(len(found), *place.shape[-2:])
        return np.stack(
            [change.apply(matrix, 0) for change, matrix in zip(found, stack, strict=True)]
        ).reshape(place.shape)

    def check(self) -> None:
        """Refuse an adapter of which some part was not met by what was read."""
        if self._changes is not None and (left := self._changes.unmatched()):
            raise _misfit(f"the base has no weight for {', '.join(left)}")


class _Changes:
    """The adapter's parts, found by the names of the checkpoint's tensors."""

    def __init__(self, parts: tuple[Part, ...], weights: TensorFile, *, transposed: bool) -> None:
        self._parts = {part.target: part for part in parts}
        self._weights = weights
        self._transposed = transposed
        self._met = {part.target: 0.0 for part in parts}
        self._stacks: tuple[str, Floats, Floats] | None = None

    def of(self, name: str, place: Place) -> list[_Change] | None:
        """What changes in a tensor: one change for a matrix, one for each expert of a stack, or nothing."""
        if part := self._parts.get(name.removesuffix(".weight")):
            if part.parameter:
                return self._stack(name, place, part)
            self._met[part.target] += 1
            up, down = self._weights.floats(part.up), self._weights.floats(part.down)
            magnitude = self._weights.floats(part.magnitude) if part.magnitude else None
            return [_fitting(name, place.shape, _Change(part, up, down, magnitude))]
        return self._of_one_expert(name, place)

    def unmatched(self) -> list[str]:
        """Parts for which the checkpoint had no weight, or not one for each expert."""
        return [target for target, part in self._parts.items() if self._met[target] < part.experts]

    def _stack(self, name: str, place: Place, part: Part) -> list[_Change]:
        if len(place.shape) != 3 or place.shape[0] != part.experts:
            raise _misfit(f"{name} is {list(place.shape)}, not a stack of {part.experts} experts")
        self._met[part.target] += part.experts
        changes = [self._expert(part, number) for number in range(part.experts)]
        if self._transposed:
            changes = [_Change(part, change.down.T, change.up.T) for change in changes]
        return [_fitting(name, place.shape[1:], change) for change in changes]

    def _of_one_expert(self, name: str, place: Place) -> list[_Change] | None:
        match = _EXPERT.fullmatch(name)
        if match is None:
            return None
        stacked = "down_proj" if match["name"] == "down_proj" else "gate_up_proj"
        part = self._parts.get(f"{match['path']}.{stacked}")
        if part is None or not part.parameter:
            return None
        number = int(match["number"])
        if number >= part.experts:
            raise _misfit(f"the base has an expert {number}, the adapter has {part.experts} experts")
        change = self._expert(part, number)
        share = 1.0
        if stacked == "gate_up_proj":
            half = len(change.up) // 2
            rows = slice(0, half) if match["name"] == "gate_proj" else slice(half, 2 * half)
            share = 0.5
            change = _Change(part, change.up[rows], change.down)
        self._met[part.target] += share
        return [_fitting(name, place.shape, change)]

    def _expert(self, part: Part, number: int) -> _Change:
        """One expert's halves; the stack read last is kept, since a stack's experts come in a row."""
        if self._stacks is None or self._stacks[0] != part.target:
            self._stacks = (part.target, self._weights.floats(part.up), self._weights.floats(part.down))
        _, ups, downs = self._stacks
        up = ups.reshape(len(ups), part.rank, part.experts)[:, :, number]
        down = downs.reshape(part.experts, part.rank, -1)[number]
        return _Change(part, np.ascontiguousarray(up), down)


def _fitting(name: str, shape: tuple[int, ...], change: _Change) -> _Change:
    fits = len(change.up), change.down.shape[1]
    if shape != fits:
        raise _misfit(f"{name} is {list(shape)} in the base, and {list(fits)} by the adapter")
    for half in (change.up, change.down, change.magnitude):
        if half is not None and not np.isfinite(half).all():
            raise _misfit(f"its weights of {name} are not finite (NaN or infinity)")
    return change


def adapter_parts(adapter: Path, weights: TensorFile, config: Mapping[str, Any]) -> tuple[Part, ...]:
    """What the adapter in a folder, whose open weights are given, changes in the base of this config.

    Raises:
        InvalidRequest: it is no LoRA that can be computed with (``invalid_adapter``).
    """
    try:
        own = json.loads((adapter / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise _misfit(f"{CONFIG} cannot be read ({error})") from error
    if not isinstance(own, dict):
        raise _misfit(f"{CONFIG} is no JSON object")
    shapes = {name: place.shape for name, place in weights.places.items()}
    try:
        return parts_of(own, shapes, _experts(config))
    except NotPlainLora as error:
        raise _misfit(str(error)) from error


def _experts(config: Mapping[str, Any]) -> int:
    """How many routed experts a layer has; 0 for a dense model."""
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if isinstance(config.get(key), int):
            return config[key]
    return 0


def _shards(base: Path) -> list[Path]:
    index = base / INDEX
    if not index.is_file():
        return sorted(base.glob("*.safetensors"))
    names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    if bad := [name for name in names if Path(name).name != name]:
        raise _unsupported(f"its index names {bad[0]!r}, which is no file of its folder")
    return [base / name for name in names]


def _tied(config: Mapping[str, Any], left: list[str]) -> str:
    tied = config.get("tie_word_embeddings") and "lm_head" in left
    return " (its output layer is its embedding, which stays as it is)" if tied else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Make what is in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unsupported(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"An adapter cannot be merged into this base model: {why}.",
        fix="Use the base model's original checkpoint, in bfloat16, float16 or float32 safetensors.",
        code="merge_unsupported",
    )


def _misfit(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The adapter cannot be merged: {why}.",
        fix="Merge an adapter with the base model that it was trained on.",
        code="invalid_adapter",
    )
