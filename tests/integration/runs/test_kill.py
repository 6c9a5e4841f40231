"""A writer killed by SIGKILL at any moment leaves a folder that reads."""

import os
import subprocess
import sys
import time
from pathlib import Path

from graftwork.runs.documents import Metrics
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport

ROOT = Path(__file__).parents[3]
WRITER = """
import itertools, pathlib, sys
from graftwork.runs.documents import Heartbeat, Metrics
from graftwork.runs.transport import LocalTransport
from graftwork.runs.writer import RunWriter

writer = RunWriter(LocalTransport(pathlib.Path(sys.argv[1])), int(sys.argv[2]))
state = pathlib.Path(sys.argv[3])
state.mkdir(exist_ok=True)
zero = dict(at=0, epoch=0, loss=1, lr=0, grad_norm=0, tokens=0, tokens_per_s=0, memory_mb=0)
for step in itertools.count(1):
    (state / "adapter_model.safetensors").write_bytes(str(step).encode() * 10000)
    writer.heartbeat(Heartbeat(step=step, total_steps=0, at=0.0, phase="training"))
    writer.emit(Metrics(step=step, **zero))
    writer.flush()
    writer.checkpoint(step, state, at=0.0, metrics={}, tokens=0)
    print(step, flush=True)
"""


def test_killed_writers_leave_whole_documents(tmp_path):
    run = tmp_path / "run"
    reader = RunReader(LocalTransport(run))
    for fence in range(1, 6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(run), str(fence), str(tmp_path / "state")],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.01 * fence)  # somewhere in a step, not always in the same place
            process.kill()
        steps = [event.step for event in reader.events(fence)[0] if isinstance(event, Metrics)]
        assert steps and steps == list(range(1, len(steps) + 1))
        assert reader.heartbeat(fence) is not None
        made = [manifest for owner, manifest in reader.checkpoints(fence) if owner == fence]
        assert len(made) in (len(steps), len(steps) - 1)
        for manifest in made:
            reader.fetch(manifest.dir, manifest.files, tmp_path / "back")
            content = (tmp_path / "back" / "adapter_model.safetensors").read_bytes()
            assert content == str(manifest.step).encode() * 10000
