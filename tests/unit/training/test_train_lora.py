"""Whole runs on a tiny model: results, resuming, orders, failures, company."""

import math

import pytest
import torch
from faketime import FakeTime
from safetensors.torch import load_file
from tinytraining import chat, make_rows, make_run

from graftwork.core.specs import BaseRef, LoraSpec
from graftwork.core.states import Outcome, Want
from graftwork.runs.documents import Control, Message, Metrics
from graftwork.runs.folder import write_control
from graftwork.runs.reader import RunReader, sha256_of
from graftwork.runs.transport import LocalTransport
from graftwork.training.attempt import StopSignal
from graftwork.training.loading import load_model
from graftwork.training.packed.engine import PackedEngine
from graftwork.training.train_lora import Trainer

TIMES = {"at", "tokens_per_s", "memory_mb"}


class Rig:
    """A trainer with a clock of its own; ``turns`` steps it by hand."""

    def __init__(self, base, renderer, engine=None):
        self.time = FakeTime(tick=0.001)
        self.stop = StopSignal()
        self.engine = engine or PackedEngine.load(base, torch.device("cpu"))
        self.loads = 0

        def load(_):
            self.loads += 1
            return self.engine, renderer

        self.trainer = Trainer(load, self.stop, self.time.clocks)

    def join(self, uri):
        self.trainer.join(uri)
        return self

    def turns(self, count):
        for _ in range(count):
            self.time.skip(2)
            self.trainer.turn()
        return self

    def finish(self):
        self.trainer.run()
        return self

    def control(self, uri, **changes):
        fields = {"fence": 1, "lease_until": self.time.unix + 1e6, "deadline": self.time.unix + 2e6}
        write_control(LocalTransport(uri), Control(**{**fields, **changes}))


@pytest.fixture
def rig(base, renderer):
    return lambda engine=None: Rig(base, renderer, engine)


def reader(uri):
    return RunReader(LocalTransport(uri))


def result(uri, fence=1):
    found = reader(uri).result(fence)
    assert found is not None
    return found


def curve(uri, *fences):
    """Metrics of attempts by step, without what depends on the clock; a later attempt's count."""
    events = [event for fence in fences for event in reader(uri).events(fence)[0]]
    return {e.step: e.model_dump(exclude=TIMES) for e in events if isinstance(e, Metrics)}


def messages(uri, fence=1):
    return [event for event in reader(uri).events(fence)[0] if isinstance(event, Message)]


def adapter(uri, fence=1):
    files = result(uri, fence).adapter
    assert files is not None
    return load_file(f"{uri}/{files.dir}/adapter_model.safetensors")


def same(one, two):
    assert set(one) == set(two)
    return all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_ends_with_an_adapter_and_a_full_account(rig, tmp_path):
    rows, valid = make_rows(20), make_rows(6, seed=9)
    uri = make_run(tmp_path / "run", rows, valid, n_epochs=4, eval_every=3, checkpoint_every=5)
    rig().join(uri).finish()
    done, steps = result(uri), curve(uri, 1)
    assert done.outcome is Outcome.SUCCEEDED
    assert list(steps) == list(range(1, 21))
    assert (done.step, done.total_steps) == (20, 20)
    assert [step for step in steps if steps[step]["valid_loss"] is not None] == [3, 6, 9, 12, 15, 18, 20]
    assert steps[20]["loss"] < steps[1]["loss"] - 0.5
    assert done.train_loss == steps[20]["loss"]
    assert done.valid_loss == min(s["valid_loss"] for s in steps.values() if s["valid_loss"] is not None)
    assert done.base_valid_loss is not None and done.valid_loss < done.base_valid_loss
    assert steps[20]["epoch"] == 4.0
    assert steps[1]["lr"] == 0.0 and steps[3]["lr"] == pytest.approx(0.01)
    assert done.adapter is not None and done.adapter.dir == "attempts/1/adapter"
    for name, sha256 in done.adapter.files.items():
        assert sha256_of(tmp_path / "run" / done.adapter.dir / name) == sha256
    assert [manifest.step for _, manifest in reader(uri).checkpoints(1)] == [5, 10, 15, 20]
    assert done.probes and done.machine["device"].startswith("cpu")
    beat = reader(uri).heartbeat(1)
    assert beat is not None and (beat.phase, beat.step) == ("done", 20)


def test_tokens_are_those_of_all_rows_times_epochs(rig, tmp_path, renderer):
    rows = make_rows(11)
    uri = make_run(tmp_path / "run", rows, n_epochs=3)
    rig().join(uri).finish()
    expected = 3 * sum(len(renderer.encode(row).tokens) for row in rows)
    assert result(uri).tokens == curve(uri, 1)[9]["tokens"] == expected


def test_checkpoints_carry_openais_metrics_and_probes(rig, tmp_path):
    uri = make_run(
        tmp_path / "run", make_rows(8), make_rows(4, 9), n_epochs=2, eval_every=2, checkpoint_every=2
    )
    rig().join(uri).finish()
    for _, manifest in reader(uri).checkpoints(1):
        assert set(manifest.metrics) == {
            "train_loss",
            "train_mean_token_accuracy",
            "valid_loss",
            "valid_mean_token_accuracy",
            "full_valid_loss",
            "full_valid_mean_token_accuracy",
        }
        assert manifest.metrics["valid_loss"] == curve(uri, 1)[manifest.step]["valid_loss"]
        assert manifest.probes and set(manifest.adapter_files()) < set(manifest.files)
    assert not [name for name in LocalTransport(uri).list("") if name.endswith((".pt", ".bin", ".pkl"))]


def test_choices_are_explained_once(rig, tmp_path):
    uri = make_run(tmp_path / "run", explained={"n_epochs": "automatic: because"}, checkpoint_every=2)
    first = rig()
    first.join(uri).turns(3)
    rig().join(uri).finish()
    told = [m.message for fence in (1, 2) for m in messages(uri, fence) if m.code == "explained"]
    assert told == ["n_epochs: automatic: because"]


@pytest.mark.parametrize("lost_at", [1, 4, 5, 9])
def test_a_lost_run_resumes_to_the_same_curve_bit_for_bit(rig, tmp_path, lost_at):
    asked = {"n_epochs": 3, "eval_every": 2, "checkpoint_every": 4, "accumulation": 2}
    whole = make_run(tmp_path / "whole", make_rows(15), make_rows(4, 9), **asked)
    rig().join(whole).finish()
    broken = make_run(tmp_path / "broken", make_rows(15), make_rows(4, 9), **asked)
    rig().join(broken).turns(lost_at)  # and is never heard of again: no result, a checkpoint or none
    assert reader(broken).result(1) is None
    rig().join(broken).finish()
    resumed = lost_at // 4 * 4
    assert list(curve(broken, 2)) == list(range(resumed + 1, 13))
    assert curve(broken, 2) == {step: m for step, m in curve(whole, 1).items() if step > resumed}
    assert same(adapter(broken, 2), adapter(whole))
    one, two = result(whole), result(broken, 2)
    assert (one.tokens, one.best_step, one.valid_loss, one.probes) == (
        two.tokens,
        two.best_step,
        two.valid_loss,
        two.probes,
    )


def test_a_run_lost_before_its_result_has_only_the_result_to_write(rig, tmp_path):
    uri = make_run(
        tmp_path / "run", make_rows(8), make_rows(4, 9), n_epochs=2, eval_every=1, decay="constant"
    )
    rig().join(uri).finish()
    first = result(uri)
    (tmp_path / "run/attempts/1/result.json").unlink()
    rig().join(uri).finish()
    second = result(uri, 2)
    assert curve(uri, 2) == {}
    assert second.model_dump(exclude={"seconds", "adapter"}) == first.model_dump(
        exclude={"seconds", "adapter"}
    )
    assert first.adapter is not None and second.adapter is not None
    assert first.adapter.files == second.adapter.files


def test_a_pause_saves_and_the_next_attempt_goes_on(rig, tmp_path):
    uri = make_run(tmp_path / "run", n_epochs=3)
    whole = make_run(tmp_path / "whole", n_epochs=3)
    rig().join(whole).finish()
    first = rig()
    first.control(uri)
    first.join(uri).turns(4)
    first.control(uri, want=Want.PAUSE)
    first.turns(1)
    assert first.trainer.sessions == []
    paused = result(uri)
    assert (paused.outcome, paused.reason, paused.step) == (Outcome.PAUSED, "pause", 4)
    assert paused.tokens == curve(uri, 1)[4]["tokens"]
    second = rig()
    second.control(uri, fence=2)
    second.join(uri).finish()
    assert curve(uri, 1, 2) == curve(whole, 1)
    assert same(adapter(uri, 2), adapter(whole))
    assert "Resumed at step 4 from attempt 1." in [m.message for m in messages(uri, 2)]


def test_a_cancel_ends_with_the_tokens_so_far_and_no_new_checkpoint(rig, tmp_path):
    uri = make_run(tmp_path / "run", n_epochs=3, checkpoint_every=2)
    it = rig()
    it.control(uri)
    it.join(uri).turns(3)
    it.control(uri, want=Want.CANCEL)
    it.turns(1)
    ended = result(uri)
    assert (ended.outcome, ended.step, ended.adapter) == (Outcome.CANCELLED, 3, None)
    assert ended.tokens == curve(uri, 1)[3]["tokens"] > 0
    assert [manifest.step for _, manifest in reader(uri).checkpoints(1)] == [2]
    assert not it.trainer.platform_failed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lease_until": 1_000_005.0}, "lease_lapsed"),
        ({"deadline": 1_000_005.0}, "deadline"),
        ({"max_cost": 5_000, "price_per_hour": 3_600_000, "billed_since": 1_000_000.0}, "max_cost"),
    ],
)
def test_what_the_machine_may_not_outlive_pauses_it(rig, tmp_path, changes, reason):
    uri = make_run(tmp_path / "run", n_epochs=3)
    it = rig()
    it.control(uri, **changes)
    it.join(uri).turns(3)
    paused = result(uri)
    assert (paused.outcome, paused.reason) == (Outcome.PAUSED, reason)
    assert 1 <= paused.step <= 2
    assert [manifest.step for _, manifest in reader(uri).checkpoints(1)] == [paused.step]


def test_a_signal_pauses_every_run(rig, tmp_path):
    uris = [make_run(tmp_path / name) for name in "ab"]
    it = rig()
    for uri in uris:
        it.join(uri)
    it.turns(2)
    it.stop.raise_it()
    it.turns(1)
    assert [(result(uri).outcome, result(uri).reason, result(uri).step) for uri in uris] == [
        (Outcome.PAUSED, "signal", 2)
    ] * 2


def test_orders_that_are_there_before_the_start_are_obeyed_without_loading_the_base(rig, tmp_path):
    for want, outcome in ((Want.PAUSE, Outcome.PAUSED), (Want.CANCEL, Outcome.CANCELLED)):
        uri = make_run(tmp_path / want)
        it = rig()
        it.control(uri, want=want)
        it.join(uri).finish()
        assert (result(uri).outcome, result(uri).step, it.loads) == (outcome, 0, 0)


def test_a_superseded_attempt_stops_without_a_word(rig, tmp_path):
    uri = make_run(tmp_path / "run", n_epochs=3)
    it = rig()
    it.control(uri)
    it.join(uri).turns(2)
    it.control(uri, fence=2)
    before = LocalTransport(uri).list("attempts/1")
    it.turns(1)
    assert it.trainer.sessions == []
    assert LocalTransport(uri).list("attempts/1") == before
    assert rig().join(f"{uri}#1").trainer.sessions == []
    assert LocalTransport(uri).list("attempts/1") == before


def test_an_attempt_that_has_ended_is_not_repeated(rig, tmp_path):
    uri = make_run(tmp_path / "run")
    it = rig()
    it.control(uri)
    it.join(uri).finish()
    before = {name: LocalTransport(uri).read(name) for name in LocalTransport(uri).list("")}
    again = rig()
    again.join(uri).finish()
    assert again.loads == 0 and not again.trainer.platform_failed
    assert before == {name: LocalTransport(uri).read(name) for name in LocalTransport(uri).list("")}


def test_early_stopping_ends_the_run_and_hands_out_the_best_step(rig, tmp_path):
    uri = make_run(
        tmp_path / "run",
        make_rows(6),
        make_rows(6, 9),
        n_epochs=40,
        eval_every=2,
        early_stopping=3,
        learning_rate=0.05,
        decay="constant",
    )
    rig().join(uri).finish()
    ended, steps = result(uri), curve(uri, 1)
    losses = {step: m["valid_loss"] for step, m in steps.items() if m["valid_loss"] is not None}
    assert ended.outcome is Outcome.SUCCEEDED
    assert ended.step < ended.total_steps == 80
    assert ended.best_step == min(losses, key=lambda step: losses[step]) == ended.step - 6
    assert ended.valid_loss == losses[ended.best_step]
    assert ended.tokens == steps[ended.step]["tokens"]
    assert "stopped_early" in [m.code for m in messages(uri)]
    last = load_file(f"{uri}/attempts/1/checkpoints/step-{ended.step:06d}/adapter_model.safetensors")
    best = load_file(f"{uri}/attempts/1/checkpoints/step-{ended.step:06d}/best.safetensors")
    assert same(adapter(uri), best) and not same(adapter(uri), last)


@pytest.mark.parametrize("way", ["exact", "fast"])
def test_runs_in_company_equal_runs_alone(rig, base, tmp_path, way):
    asked = [
        {"n_epochs": 2, "lora": LoraSpec(rank=4, alpha=8, dropout=0.2), "seed": 1},
        {
            "n_epochs": 3,
            "lora": LoraSpec(rank=2, alpha=4, targets=("q_proj", "v_proj")),
            "seed": 2,
            "batch_size": 3,
        },
    ]
    alone = [
        make_run(tmp_path / f"alone{i}", make_rows(10, i), make_rows(3, 9), **a) for i, a in enumerate(asked)
    ]
    company = [
        make_run(tmp_path / f"co{i}", make_rows(10, i), make_rows(3, 9), **a) for i, a in enumerate(asked)
    ]
    for uri in alone:
        rig().join(uri).finish()
    it = rig(PackedEngine(load_model(base, torch.device("cpu")), company=way))
    it.join(company[0]).turns(2).join(company[1]).finish()  # the second joins later, the first leaves earlier
    assert it.loads == 1
    for one, two in zip(alone, company, strict=True):
        if way == "exact":
            assert curve(one, 1) == curve(two, 1)
            assert same(adapter(one), adapter(two))
        for name, tensor in adapter(one).items():
            assert torch.allclose(tensor, adapter(two)[name], rtol=1e-3, atol=1e-4), name


class Poisoned(PackedEngine):
    """The n-th step of the adapter named ``victim`` gives a NaN, as a too high rate would."""

    victim, left = "graft0", 3

    def forward_backward(self, work):
        sums = super().forward_backward(work)
        for item in work:
            if item.adapter.name == self.victim:
                self.left -= 1
                if self.left == 0:
                    item.adapter.grad[3] = math.nan
        return sums


def test_a_diverged_run_fails_alone_and_its_owner_is_told_what_to_do(rig, tmp_path, base):
    uris = [make_run(tmp_path / name) for name in "ab"]
    it = rig(Poisoned.load(base, torch.device("cpu")))
    for uri in uris:
        it.join(uri)
    it.finish()
    failed, fine = (result(uri) for uri in uris)
    assert failed.outcome is Outcome.FAILED and failed.error is not None
    assert (failed.error.code, failed.error.kind, failed.step) == ("loss_not_finite", "user", 2)
    assert "learning_rate_multiplier" in failed.error.message
    assert [m.code for m in messages(uris[0]) if m.level == "error"] == ["loss_not_finite"]
    assert fine.outcome is Outcome.SUCCEEDED
    assert not it.trainer.platform_failed


def test_bad_data_is_a_user_error_and_the_next_run_goes_on(rig, tmp_path):
    bad = make_run(tmp_path / "bad", [chat("red " * 200, "blue")])
    good = make_run(tmp_path / "good")
    targets = make_run(tmp_path / "targets", lora=LoraSpec(targets=("c_attn",)))
    it = rig()
    for uri in (bad, good, targets):
        it.join(uri)
    it.finish()
    for uri, code in ((bad, "no_labelled_tokens"), (targets, "unknown_target")):
        error = result(uri).error
        assert error is not None and (error.code, error.kind) == (code, "user")
        assert error.param in ("training_file", "lora.targets")
    assert result(good).outcome is Outcome.SUCCEEDED
    assert not it.trainer.platform_failed


def test_a_run_of_another_base_model_is_the_platforms_mistake(rig, tmp_path):
    good, other = make_run(tmp_path / "good"), make_run(tmp_path / "other")
    spec = reader(other).spec()
    changed = spec.model_copy(update={"base": BaseRef(name="big", repository="big", revision="1")})
    LocalTransport(other).replace("spec.json", changed.model_dump_json().encode())
    it = rig().join(good).join(other).finish()
    error = result(other).error
    assert error is not None and (error.code, error.kind) == ("wrong_base", "platform")
    assert result(good).outcome is Outcome.SUCCEEDED
    assert it.trainer.platform_failed


def test_a_run_of_another_quantization_is_the_platforms_mistake(rig, tmp_path):
    plain, packed = make_run(tmp_path / "plain"), make_run(tmp_path / "packed", quantization="nf4")
    rig().join(plain).join(packed).finish()
    error = result(packed).error
    assert error is not None and (error.code, error.kind) == ("wrong_base", "platform")
    assert "tiny in nf4" in error.message
    assert result(plain).outcome is Outcome.SUCCEEDED


def test_an_unexpected_error_is_the_platforms_with_its_traceback_in_the_log(rig, tmp_path, renderer):
    uri = make_run(tmp_path / "run")

    def load(_):
        raise RuntimeError("the disk caught fire")

    trainer = Trainer(load, StopSignal())
    trainer.join(uri)
    trainer.run()
    error = result(uri).error
    assert error is not None and (error.code, error.kind) == ("training_error", "platform")
    assert "the disk caught fire" in error.message
    assert "Traceback" in reader(uri).log(1)[0]
    assert trainer.platform_failed


def test_a_full_disk_at_a_checkpoint_fails_for_a_retry_and_leaves_no_half_checkpoint(rig, tmp_path):
    uri = make_run(tmp_path / "run", n_epochs=3, checkpoint_every=2)
    it = rig()
    it.join(uri).turns(3)
    (session,) = it.trainer.sessions
    root = session.attempt.writer.transport.root
    session.attempt.writer.transport = FullAt("optimizer", root)
    it.turns(1)
    failed = result(uri)
    assert failed.error is not None
    assert (failed.error.code, failed.error.kind, failed.step) == ("disk_full", "platform", 4)
    assert "try again" in failed.error.message
    assert [manifest.step for _, manifest in reader(uri).checkpoints(1)] == [2]
    assert it.trainer.platform_failed
    rig().join(uri).finish()
    assert result(uri, 2).outcome is Outcome.SUCCEEDED
    assert min(curve(uri, 2)) == 3


class FullAt(LocalTransport):
    """A disk that has no room for files of a certain name."""

    def __init__(self, name, root):
        super().__init__(root)
        self.name = name

    def _write(self, path, fill):
        if self.name in path:
            return super()._write(path, no_room)
        return super()._write(path, fill)


def no_room(_):
    raise OSError(28, "No space left on device")


def test_two_processes_of_one_attempt_do_not_fight(rig, tmp_path):
    uri = make_run(tmp_path / "run", n_epochs=3)
    first, second = rig(), rig()
    first.control(uri)
    first.join(uri)
    second.join(uri)
    first.turns(2)
    second.turns(2)
    assert second.trainer.sessions == [] and not second.trainer.platform_failed
    first.finish()
    assert result(uri).outcome is Outcome.SUCCEEDED
    assert list(curve(uri, 1)) == list(range(1, 16))


def test_folders_that_hold_no_run_are_said_and_passed_over(rig, tmp_path, capsys):
    good = make_run(tmp_path / "good")
    it = rig().join(str(tmp_path / "none")).join("s3://bucket/run").join(good).finish()
    assert it.trainer.platform_failed
    assert result(good).outcome is Outcome.SUCCEEDED
    assert "no spec.json" in capsys.readouterr().err
