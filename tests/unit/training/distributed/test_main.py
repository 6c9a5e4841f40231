"""The trainer's entry, where it decides who trains."""

import pytest

from graftwork.core.errors import InvalidRequest
from graftwork.training import main


def test_a_list_of_runs_is_one_process(tmp_path):
    with pytest.raises(InvalidRequest) as caught:
        main([], str(tmp_path / "list.json"), processes=2)
    assert caught.value.code == "assignments_need_one_process"
