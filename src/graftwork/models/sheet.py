"""All that is known of one base model, as plain values: for the API, the command line and the docs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

from graftwork.core.specs import LoraSpec, Method, Quantization
from graftwork.models.entry import CatalogueEntry
from graftwork.models.memory import SEQUENCES, Device, Load, adapter_parameters, expert_rank, profile
from graftwork.models.support import SUPPORT, servers

TOKENS, ROWS = 512, 4
"""Of the micro-batch that memory is reckoned for: rows of so many tokens, a third of them labelled."""


def sheet(entry: CatalogueEntry, lora: LoraSpec | None = None) -> dict[str, Any]:
    """Shape, targets, engines and memory of a base model.

    Keys: ``shape`` (sizes), ``active_parameters`` (embeddings left out), ``targets`` (names by part of the
    model), ``adapter`` (what ``lora``, or the default, weighs), ``serving`` (engine to empty text or to why
    not), ``unseen`` (engine to what of it could not be run here), ``memory`` (bytes by device, quantization
    and method), ``chat`` and ``notes``.
    """
    lora = lora or entry.lora
    shape = entry.shape
    return {
        "shape": {name: value for name, value in asdict(shape).items() if value not in (None, "")},
        "active_parameters": shape.active_parameters,
        "targets": {part: list(names) for part, names in shape.targets.items()},
        "adapter": {
            "rank": lora.rank,
            "expert_rank": expert_rank(shape, lora) if shape.experts else None,
            "parameters": adapter_parameters(shape, lora),
        },
        "serving": servers(shape, lora) if entry.family in SUPPORT else {},
        "unseen": _unseen(entry),
        "memory": memory_of(entry, lora),
        "chat": entry.chat,
        "notes": entry.notes,
    }


def _unseen(entry: CatalogueEntry) -> dict[str, str]:
    support = SUPPORT.get(entry.family)
    return (
        {name: engine.unseen for name, engine in support.engines.items() if engine.unseen} if support else {}
    )


def memory_of(entry: CatalogueEntry, lora: LoraSpec) -> list[dict[str, Any]]:
    """Peak bytes of one run alone with ``ROWS`` rows of ``TOKENS`` tokens a micro-batch, by method."""
    found: list[dict[str, Any]] = []
    options: list[tuple[Device, Quantization]] = [("cpu", "none"), ("gpu", "none"), ("gpu", "nf4")]
    methods: tuple[Method, ...] = get_args(Method)
    for device, quantization in options:
        for method in methods:
            tokens = ROWS * TOKENS * SEQUENCES[method]
            labelled = tokens if method == "cpt" else tokens // 3
            load = Load(lora=lora, tokens=tokens, labelled=labelled, method=method)
            parts = profile(entry.shape, [load], device=device, quantization=quantization)
            found.append(
                {
                    "device": device,
                    "quantization": quantization,
                    "method": method,
                    "bytes": sum(parts.values()),
                    "parts": parts,
                }
            )
    return found
