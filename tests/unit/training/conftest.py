"""A tiny base model, loaded once."""

import pytest
from tinytraining import make_base

from graftwork.data.rendering import Renderer


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def renderer(base):
    return Renderer.load(base)


@pytest.fixture
def engine(base):
    import torch

    from graftwork.training.solo import SoloEngine

    return SoloEngine.load(base, torch.device("cpu"))
