"""Axolotl itself, on a CPU."""

import os

import pytest
from reallytrained import PATIENCE, check_result, order, prepare, said, start
from tinytraining import make_base

LANE = os.environ.get("GRAFTWORK_LANE_AXOLOTL")
pytestmark = pytest.mark.skipif(LANE is None, reason="needs `make lane-axolotl`")


def test_it_trains(tmp_path):
    base = make_base(tmp_path / "base")
    uri = prepare(base, tmp_path / "run", "axolotl", learning_rate=0.03)
    order(uri, 1)
    assert start(uri, "GRAFTWORK_TRAINER_AXOLOTL", LANE).wait(PATIENCE) == 0, said(uri)
    assert [metrics.step for metrics in check_result(uri)] == list(range(1, 13))
