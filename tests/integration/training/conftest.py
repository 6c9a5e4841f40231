"""A tiny base model on disk, and a catalogue's name for it."""

import pytest
from tinytraining import make_base


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("tiny") / "base")
