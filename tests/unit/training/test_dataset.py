"""Data is checked once more by the trainer, with the same words as everywhere."""

import pytest
from tinytraining import TEMPLATE, chat, make_rows, make_run

from graftwork.core.errors import InvalidData, PlatformError
from graftwork.data.rendering import Renderer
from graftwork.data.template import ChatTemplate
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.training.dataset import load_dataset


def load(folder, renderer, rows, max_length=128):
    reader = RunReader(LocalTransport(make_run(folder, rows) and folder))
    return load_dataset(reader, reader.spec().train, renderer, max_length, "training_file")


def test_rows_come_in_order_with_their_counts(tmp_path, renderer):
    rows = make_rows(5)
    data = load(tmp_path / "run", renderer, rows)
    assert [row.tokens for row in data.rows] == [renderer.encode(row).tokens for row in rows]
    assert data.lengths == [len(row.tokens) for row in data.rows]
    assert data.labelled == sum(sum(row.labels) for row in data.rows)
    assert (data.cut, data.skipped) == (0, 0)


def test_long_rows_are_cut_and_rows_without_labels_left_out(tmp_path, renderer):
    silent = chat("red", "blue")
    silent["messages"][1]["weight"] = 0
    rows = [chat("red", "cat " * 100), silent, chat("dog", "bird"), chat("fish " * 80, "horse")]
    data = load(tmp_path / "run", renderer, rows, max_length=64)
    assert (len(data.rows), data.cut, data.skipped) == (2, 1, 2)
    assert data.lengths[0] == 64


def test_labels_are_read_back_as_text_and_compared_with_the_answers(tmp_path, renderer):
    weighted = chat("red", "blue")
    weighted["messages"] += [
        {"role": "user", "content": "dog"},
        {"role": "assistant", "content": "cat", "weight": 0},
    ]
    rows = [*make_rows(4), weighted, {"text": "red cat"}, {"prompt": "red", "completion": "cat"}]
    assert load(tmp_path / "good", renderer, rows).doubtful == 0
    shouting = Renderer(
        renderer.tokenizer,
        ChatTemplate(TEMPLATE.replace("m.content + '<|im_end|>'", "m.content | upper + '<|im_end|>'")),
    )
    assert load(tmp_path / "bad", shouting, rows).doubtful == 5


def test_a_set_without_a_single_label_is_the_customers_to_mend(tmp_path, renderer):
    with pytest.raises(InvalidData) as caught:
        load(tmp_path / "run", renderer, [chat("fish " * 80, "horse")], max_length=32)
    assert (caught.value.code, caught.value.param) == ("no_labelled_tokens", "training_file")
    assert "max_length" in caught.value.fix


def test_every_row_that_cannot_be_rendered_is_named(tmp_path, renderer):
    preference = {"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}
    with pytest.raises(InvalidData) as caught:
        load(tmp_path / "run", renderer, [chat("a", "b"), preference, preference])
    assert caught.value.code == "method_mismatch"
    assert "row 2" in caught.value.message
    assert [finding["line"] for finding in caught.value.details["findings"]] == [2, 3]


def test_bytes_that_are_not_the_specifications_are_not_trained_on(tmp_path, renderer):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "data" / "train.jsonl").write_bytes(b"{}\n")
    reader = RunReader(LocalTransport(tmp_path / "run"))
    with pytest.raises(PlatformError) as caught:
        load_dataset(reader, reader.spec().train, renderer, 128, "training_file")
    assert caught.value.code == "run_folder_corrupt"
