"""A trainer's command that learns nothing: ``python faketool.py CONFIG``, where CONFIG says how to behave.

It takes the steps it is told to, saves an adapter of small numbers, and stops at SIGTERM, as our callback
makes a real tool do.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def say(event, step, **more):
    with Path(os.environ["GRAFTWORK_EVENTS"]).open("a") as file:
        file.write(json.dumps({"event": event, "step": step, **more}) + "\n")


def save(said, step):
    folder = Path(said["out"]) / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(step)
    tensors = {
        name: (0.01 * numbers.standard_normal(shape)).astype(np.float32)
        for name, shape in said["shapes"].items()
    }
    if said.get("nan"):
        next(iter(tensors.values()))[0] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(said["peft"]))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    say("saved", step, path=str(folder))


def main(config):
    said = json.loads(Path(config).read_text())
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    first = int(Path(said["resume"]).name.rpartition("-")[2]) if said.get("resume") else 0
    if said.get("child"):  # a process of its own that must not be left behind
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(said["child"]).write_text(str(child.pid))
    print("the tool speaks", flush=True)
    for step in range(first + 1, said["steps"] + 1):
        time.sleep(said.get("pause", 0.0))
        say("step", step, epoch=step / 10, loss=5.0 / step, grad_norm=1.0, lr=0.01, memory_mb=1.0)
        if step == said.get("die_at"):
            print("RuntimeError: it went wrong", flush=True)
            os._exit(3)
        if asked or step % said["every"] == 0 or step == said["steps"]:
            save(said, step)
        if asked:
            break
    say("end", step)


if __name__ == "__main__":
    main(sys.argv[1])
