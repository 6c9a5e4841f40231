"""A trainer without torch, as a process: ``python trainerprocess.py STEPS SECONDS --run URI#FENCE``, or
``--assignments URI`` in place of ``--run``.

It takes STEPS steps of SECONDS each, saves at every second one, and obeys SIGTERM and ``control.json``.
"""

from __future__ import annotations

import signal
import sys
import time

from controlhouse import Script, ScriptedCompany

from graftwork.testing.simulated_cloud import CATALOGUE, SimulatedMachine


class WallClock:
    """Real time, where the scripted trainer wants a clock."""

    def now(self) -> float:
        return time.time()


def main(steps: int, pause: float, what: str, uri: str) -> int:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    machine = SimulatedMachine(
        id="me",
        name="me",
        offer=CATALOGUE[0],
        command=["trainer", what, uri],
        env={},
        run_uri=uri,
        created_at=0.0,
        runs_at=0.0,
        deadline=9e9,
    )
    script = Script(steps=steps)
    trainer = ScriptedCompany(machine, lambda job: script, WallClock())  # pyright: ignore[reportArgumentType]
    while True:
        code = trainer.pause("signal") if stopped else trainer.turn()
        if code is not None:
            return code
        time.sleep(pause)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[-2], sys.argv[-1]))
