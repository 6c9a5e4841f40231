"""Our quantizers against llama.cpp's own, on the same rows."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from graftwork.export import blocks

KINDS = {
    "q8_0": (blocks.q8_0, gguf.GGMLQuantizationType.Q8_0, 1.0),
    "q5_0": (blocks.q5_0, gguf.GGMLQuantizationType.Q5_0, 1.0),
    "q4_k": (blocks.q4_k, gguf.GGMLQuantizationType.Q4_K, 0.99),
    "q6_k": (blocks.q6_k, gguf.GGMLQuantizationType.Q6_K, 0.99),
}
"""Function, GGUF's type, and the share of bytes that must be llama.cpp's: a tie may fall the other way."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> np.ndarray:
    random = np.random.default_rng(0)
    rows = 0.05 * random.standard_normal((64, 512)) * random.lognormal(size=(64, 1))
    rows[3], rows[4, :256], rows[5], rows[6, :32] = 0, 0, np.abs(rows[5]), 0.5
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def theirs(llama, rows, tmp_path_factory) -> dict[str, np.ndarray]:
    path = tmp_path_factory.mktemp("blocks") / "rows.npy"
    np.save(path, rows)
    found = llama(quantize=str(path))
    return {name: np.array(data, np.uint8).reshape(len(rows), -1) for name, data in found.items()}


@pytest.mark.parametrize("name", KINDS)
def test_blocks_are_llama_cpps(name: str, rows: np.ndarray, theirs: dict[str, np.ndarray]):
    quantize, kind, share = KINDS[name]
    ours = quantize(rows)
    assert ours.shape == theirs[name].shape
    assert (ours == theirs[name]).mean() >= share
    errors = [np.square(gguf.dequantize(data, kind) - rows).mean() for data in (ours, theirs[name])]
    assert errors[0] <= errors[1] * 1.005
