import pytest

from graftwork.core.errors import Conflict
from graftwork.core.states import MOVES, TERMINAL, Phase, check_move, wire_status


def test_terminal_phases_go_nowhere():
    assert all(not MOVES[phase] for phase in TERMINAL)


def test_every_other_phase_can_fail_and_be_cancelled():
    for phase in set(Phase) - TERMINAL:
        assert {Phase.FAILED, Phase.CANCELLED} <= MOVES[phase]


def test_a_skipped_gate_is_refused():
    with pytest.raises(Conflict) as caught:
        check_move(Phase.TRAINING, Phase.DEPLOYING)
    assert caught.value.code == "illegal_move"


def test_wire_status_is_openai_vocabulary():
    known = {"validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"}
    assert {wire_status(phase) for phase in Phase} == known
