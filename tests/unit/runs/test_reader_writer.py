"""What the trainer writes, the control plane reads: whole, in order, or not yet."""

import pytest

from graftwork.core.errors import Conflict, PlatformError
from graftwork.core.states import Outcome
from graftwork.runs.documents import Heartbeat, Message, Metrics, Probe, Result
from graftwork.runs.folder import prepare
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.runs.writer import RunWriter

TRAIN = b'{"messages":[]}\n'


def message(text):
    return Message(at=1.0, message=text)


def metrics(step):
    return Metrics(
        at=1.0,
        step=step,
        epoch=0.1,
        loss=2.0,
        lr=1e-3,
        grad_norm=1.0,
        tokens=10,
        tokens_per_s=5.0,
        memory_mb=1.0,
    )


def state(tmp_path, content):
    folder = tmp_path / f"state-{content}"
    (folder / "nested").mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(content.encode())
    (folder / "adapter_config.json").write_bytes(b"{}")
    (folder / "nested" / "optimizer.safetensors").write_bytes(content.encode() * 2)
    return folder


def ended(step):
    return Result(outcome=Outcome.SUCCEEDED, step=step, tokens=10, seconds=1.0)


class Ticks:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_events_are_batched_by_time_and_read_in_order_from_a_cursor(transport):
    clock = Ticks()
    writer, reader = RunWriter(transport, 1, clock), RunReader(transport)
    writer.emit(message("a"))
    writer.emit(metrics(1))
    assert reader.events(1) == ([], 0)
    clock.now = 1.5
    writer.emit(message("b"))
    events, cursor = reader.events(1)
    assert (events, cursor) == ([message("a"), metrics(1), message("b")], 1)
    writer.emit(message("c"))
    writer.flush()
    assert reader.events(1, cursor) == ([message("c")], 2)
    assert reader.events(1, 2) == ([], 2)
    assert reader.events(1, 0, limit=1)[1] == 1


def test_many_events_are_flushed_before_the_second_is_over(transport):
    writer = RunWriter(transport, 1, Ticks())
    for step in range(500):
        writer.emit(metrics(step))
    assert len(RunReader(transport).events(1)[0]) == 500


def test_the_log_is_text_in_order(transport):
    writer, reader = RunWriter(transport, 1, Ticks()), RunReader(transport)
    writer.log("one\n")
    writer.log("two\n")
    writer.flush()
    writer.log("three\n")
    writer.flush()
    assert reader.log(1) == ("one\ntwo\nthree\n", 2)
    assert reader.log(1, 1) == ("three\n", 2)


def test_a_gap_in_the_numbers_ends_the_reading(transport):
    writer = RunWriter(transport, 1, Ticks())
    writer.emit(message("a"))
    writer.flush()
    transport.create("attempts/1/events/000003.jsonl", message("c").to_bytes())
    assert RunReader(transport).events(1) == ([message("a")], 1)


def test_a_new_process_of_the_same_attempt_goes_on_numbering(transport):
    for text in ("a", "b"):
        writer = RunWriter(transport, 1, Ticks())
        writer.emit(message(text))
        writer.log(text)
        writer.flush()
    assert RunReader(transport).events(1) == ([message("a"), message("b")], 2)
    assert RunReader(transport).log(1) == ("ab", 2)


def test_two_writers_of_one_attempt_are_found_out(transport):
    first, second = RunWriter(transport, 1, Ticks()), RunWriter(transport, 1, Ticks())
    first.emit(message("a"))
    second.emit(message("b"))
    first.flush()
    with pytest.raises(Conflict) as caught:
        second.flush()
    assert caught.value.code == "attempt_has_another_writer"


class Racing(LocalTransport):
    """Another process is always a moment ahead."""

    def put_file(self, path, local):
        super().put_file(path, local)
        super().put_file(path, local)


def test_two_writers_of_one_checkpoint_are_found_out(tmp_path):
    writer = RunWriter(Racing(tmp_path / "run"), 1)
    with pytest.raises(Conflict) as caught:
        writer.checkpoint(1, state(tmp_path, "x"), at=1.0, metrics={}, tokens=0)
    assert caught.value.code == "attempt_has_another_writer"
    assert RunReader(writer.transport).checkpoints(1) == []


def test_the_heartbeat_is_the_last_one(transport):
    writer, reader = RunWriter(transport, 2), RunReader(transport)
    assert reader.heartbeat(2) is None
    for step in (1, 2):
        writer.heartbeat(Heartbeat(step=step, total_steps=2, at=1.0, phase="training"))
    beat = reader.heartbeat(2)
    assert beat is not None and beat.step == 2
    assert reader.heartbeat(1) is None


def test_a_checkpoint_comes_back_verified(transport, tmp_path):
    writer, reader = RunWriter(transport, 1), RunReader(transport)
    probe = Probe(tokens=[1, 2], start=1, logprobs=[-0.5], base_logprobs=[-1.0])
    made = writer.checkpoint(
        2, state(tmp_path, "x"), at=1.0, metrics={"loss": 1.0}, tokens=9, best=True, probes=[probe]
    )
    assert reader.checkpoints(1) == [(1, made)]
    assert made.dir == "attempts/1/checkpoints/step-000002"
    assert set(made.adapter_files()) == {"adapter_config.json", "adapter_model.safetensors"}
    reader.fetch(made.dir, made.files, tmp_path / "back")
    assert (tmp_path / "back" / "nested" / "optimizer.safetensors").read_bytes() == b"xx"
    (transport.root / made.dir / "adapter_model.safetensors").write_bytes(b"y")
    with pytest.raises(PlatformError) as caught:
        reader.fetch(made.dir, made.files, tmp_path / "back")
    assert caught.value.code == "run_folder_corrupt"


def test_checkpoints_are_sorted_and_those_of_later_attempts_are_not_seen(transport, tmp_path):
    for fence, step in ((2, 3), (1, 10), (1, 2), (10, 1)):
        RunWriter(transport, fence).checkpoint(step, state(tmp_path, "x"), at=1.0, metrics={}, tokens=0)
    reader = RunReader(transport)
    assert [(fence, m.step) for fence, m in reader.checkpoints(10)] == [(1, 2), (1, 10), (2, 3), (10, 1)]
    assert [(fence, m.step) for fence, m in reader.checkpoints(2)] == [(1, 2), (1, 10), (2, 3)]
    assert reader.attempts() == [1, 2, 10]


def test_half_a_checkpoint_is_not_one_and_does_not_stand_in_the_way(transport, tmp_path):
    folder = "attempts/1/checkpoints/step-000002"
    transport.create(f"{folder}/adapter_model.safetensors", b"half of another")
    reader = RunReader(transport)
    assert reader.checkpoints(1) == []
    made = RunWriter(transport, 1).checkpoint(2, state(tmp_path, "x"), at=1.0, metrics={}, tokens=0)
    assert made.dir == f"{folder}-r1"
    assert reader.checkpoints(1) == [(1, made)]
    again = RunWriter(transport, 1).checkpoint(2, state(tmp_path, "y"), at=9.0, metrics={}, tokens=0)
    assert again == made
    (transport.root / made.dir / "adapter_config.json").unlink()
    assert reader.checkpoints(1) == []


def test_a_checkpoint_with_a_damaged_manifest_is_passed_over(transport, tmp_path):
    writer, reader = RunWriter(transport, 1), RunReader(transport)
    earlier, damaged = (
        writer.checkpoint(step, state(tmp_path, "x"), at=1.0, metrics={}, tokens=0) for step in (2, 4)
    )
    (transport.root / damaged.dir / "manifest.json").write_bytes(b'{"step": 4')
    assert reader.checkpoints(1) == [(1, earlier)]
    again = writer.checkpoint(4, state(tmp_path, "x"), at=1.0, metrics={}, tokens=0)
    assert again.dir == f"{damaged.dir}-r1"


def test_the_result_comes_last_and_once(transport, tmp_path):
    writer, reader = RunWriter(transport, 1, Ticks()), RunReader(transport)
    writer.emit(message("a"))
    adapter = writer.adapter(state(tmp_path, "x"))
    assert reader.result(1) is None
    writer.result(ended(1).model_copy(update={"adapter": adapter}))
    assert reader.events(1)[0] == [message("a")]
    result = reader.result(1)
    assert result is not None and result.adapter == adapter
    assert reader.file(f"{adapter.dir}/adapter_config.json") == b"{}"
    with pytest.raises(Conflict):
        writer.result(ended(2))


def test_damaged_documents_are_told_from_missing_ones(transport):
    transport.create("attempts/1/result.json", b"{")
    transport.create("attempts/1/events/000001.jsonl", b"nonsense")
    reader = RunReader(transport)
    for act in (lambda: reader.result(1), lambda: reader.events(1)):
        with pytest.raises(PlatformError) as caught:
            act()
        assert caught.value.code == "run_folder_corrupt"
    with pytest.raises(PlatformError) as caught:
        reader.file("attempts/1/none")
    assert caught.value.code == "run_file_missing"


def test_nothing_that_is_not_a_number_can_be_written():
    with pytest.raises(ValueError, match="finite"):
        metrics(1).__class__.model_validate({**metrics(1).model_dump(), "loss": float("nan")})


def write_attempt(transport, tmp_path, fence):
    writer = RunWriter(transport, fence, Ticks())
    for step in (1, 2, 3):
        writer.heartbeat(Heartbeat(step=step, total_steps=3, at=1.0, phase="training"))
        writer.emit(metrics(step))
        writer.checkpoint(step, state(tmp_path, str(step)), at=1.0, metrics={}, tokens=step)
    writer.log("done\n")
    writer.result(ended(3).model_copy(update={"adapter": writer.adapter(state(tmp_path, "3"))}))


def writes_of_an_attempt(transport, tmp_path, dying):
    counting = dying(transport, 10_000, False)
    write_attempt(counting, tmp_path, 99)
    return 10_000 - counting.left


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_killed_at_any_write_the_folder_reads_and_the_next_attempt_ends(
    tmp_path, spec, done, dying, killed, local
):
    total = writes_of_an_attempt(local(tmp_path / "count"), tmp_path, dying)
    assert total > 15
    for writes in range(total):
        inner = local(tmp_path / f"run-{writes}")
        prepare(inner, spec, TRAIN, None)
        with pytest.raises(killed):
            write_attempt(dying(inner, writes, done), tmp_path, 1)
        reader = RunReader(inner)
        steps = [event.step for event in reader.events(1)[0] if isinstance(event, Metrics)]
        assert steps == list(range(1, len(steps) + 1))
        for number, (_, manifest) in enumerate(reader.checkpoints(1), start=1):
            assert manifest.step == number
            assert number <= len(steps)
            reader.fetch(manifest.dir, manifest.files, tmp_path / "back")
        result = reader.result(1)
        assert (result is not None) == (done and writes == total - 1)
        assert reader.heartbeat(1) is not None or not (done or writes)
        for fence in (1, 2) if result is None else (2,):  # the same attempt again, or the next
            write_attempt(inner, tmp_path, fence)
            again = reader.result(fence)
            assert again is not None and again.adapter is not None
            reader.fetch(again.adapter.dir, again.adapter.files, tmp_path / "back")
