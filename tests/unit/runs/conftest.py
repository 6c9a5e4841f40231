"""A small run, and a transport that dies at a chosen write."""

import hashlib

import pytest

from graftwork.core.specs import BaseRef, DataRef, LoraSpec, RunSpec, Schedule
from graftwork.runs.transport import LocalTransport

TRAIN = b'{"messages":[]}\n'


class Killed(BaseException):
    """The process is gone: nothing may catch this and go on."""


class DyingTransport:
    """Delegates to a transport, and dies before or after its n-th write."""

    def __init__(self, inner, after_writes, done):
        self.inner, self.left, self.done = inner, after_writes, done

    def _write(self, act):
        if self.left == 0:
            if self.done:
                act()
            raise Killed
        self.left -= 1
        act()

    def read(self, path):
        return self.inner.read(path)

    def list(self, prefix):
        return self.inner.list(prefix)

    def get_file(self, path, local):
        self.inner.get_file(path, local)

    def create(self, path, data):
        self._write(lambda: self.inner.create(path, data))

    def replace(self, path, data):
        self._write(lambda: self.inner.replace(path, data))

    def put_file(self, path, local):
        self._write(lambda: self.inner.put_file(path, local))


@pytest.fixture
def transport(tmp_path):
    return LocalTransport(tmp_path / "run")


@pytest.fixture
def spec():
    return RunSpec(
        job_id="ftjob-1",
        base=BaseRef(name="tiny", repository="tiny", revision="0"),
        train=DataRef(path="data/train.jsonl", sha256=hashlib.sha256(TRAIN).hexdigest(), rows=1),
        valid=None,
        lora=LoraSpec(),
        schedule=Schedule(
            n_epochs=1,
            batch_size=1,
            accumulation=1,
            learning_rate_multiplier=1.0,
            learning_rate=1e-3,
            warmup_ratio=0.0,
            decay="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            max_length=64,
            eval_every=1,
            checkpoint_every=1,
            early_stopping=None,
            total_steps=1,
        ),
        seed=1,
        code_version="0",
    )


@pytest.fixture
def killed():
    return Killed


@pytest.fixture
def dying():
    return DyingTransport


@pytest.fixture
def local():
    return LocalTransport
