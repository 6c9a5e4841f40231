"""Tests that need a CUDA GPU: `make test-gpu`, which fails where there is none."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU and a CUDA build of torch: make test-gpu")
    return torch.device("cuda")
