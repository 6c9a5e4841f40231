"""Canonical rows: bytes there and back, fingerprints, question and answer."""

import pytest

from graftwork.core.errors import InvalidData
from graftwork.data import answer, canonical, fingerprint, kind, question, read_canonical
from graftwork.data.rows import loose_fingerprint

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello é\n"}]}


def test_canonical_rows_come_back_as_they_were():
    rows = [CHAT, {"prompt": "a", "completion": "b"}, {"text": "c"}]
    data = canonical(rows)
    assert data.count(b"\n") == 3 and data.endswith(b"\n")
    assert read_canonical(data) == rows


def test_bytes_that_are_not_canonical_are_refused_with_their_line():
    with pytest.raises(InvalidData, match="Line 2") as caught:
        read_canonical(b'{"text":"a"}\n[1]\n')
    assert caught.value.code == "row_not_canonical"


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (CHAT, "chat"),
        ({"prompt": "a", "completion": "b"}, "completion"),
        ({"text": "c"}, "text"),
        ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "preference"),
    ],
)
def test_kind(row, name):
    assert kind(row) == name


def test_a_row_of_no_kind_is_refused():
    with pytest.raises(InvalidData, match="instruction"):
        kind({"instruction": "x"})


def test_fingerprints_tell_exact_from_loose_equality():
    shout = {"messages": [{"role": "user", "content": " HI "}, {"role": "assistant", "content": "Hello  É"}]}
    assert fingerprint(CHAT) != fingerprint(shout)
    assert loose_fingerprint(CHAT) == loose_fingerprint(shout)
    assert loose_fingerprint(CHAT) != loose_fingerprint({"messages": CHAT["messages"][:1]})


def test_question_is_what_stands_before_the_last_answer():
    row = {"messages": [*CHAT["messages"], {"role": "user", "content": "More"}, *CHAT["messages"][1:]]}
    assert question(row) == row["messages"][:3]
    assert answer(row) == "Hello é\n"
    assert answer({"prompt": "p", "completion": "c"}) == "c"
