"""A callback of transformers' ``Trainer`` that tells us of its steps and checkpoints, and stops it for us.

Runs in a tool's environment. Lines of JSON go to the file ``$GRAFTWORK_EVENTS``; SIGTERM means: save after
this step, and end.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from typing import Any

import torch
from transformers import TrainerCallback


class Events(TrainerCallback):
    """Tells of steps, checkpoints and the end."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self.asked = True

    def _told_to_stop(self) -> bool:
        """Whether any process was: all of them must stop after the same step."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
            flag = torch.tensor([int(self.asked)], device=device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            return bool(flag.item())
        return self.asked

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop when asked to, and at the last step."""
        stop = self._told_to_stop()
        if stop or state.global_step >= state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """One optimizer step."""
        logs = logs or {}
        if state.is_world_process_zero and "loss" in logs:
            say(
                "step",
                state.global_step,
                epoch=float(logs.get("epoch", 0.0)),
                loss=float(logs["loss"]),
                grad_norm=float(logs.get("grad_norm", 0.0)),
                lr=float(logs.get("learning_rate", 0.0)),
                memory_mb=memory_mb(),
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint is complete."""
        if state.is_world_process_zero:
            path = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")  # noqa: PTH118
            say("saved", state.global_step, path=path)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Training is over."""
        if state.is_world_process_zero:
            say("end", state.global_step)


def say(event: str, step: int, **more: Any) -> None:
    """One line, written at once."""
    with open(os.environ["GRAFTWORK_EVENTS"], "a") as file:  # noqa: PTH123
        file.write(json.dumps({"event": event, "step": step, **more}) + "\n")


def memory_mb() -> float:
    """Peak memory in MiB: of the GPU's allocator, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
