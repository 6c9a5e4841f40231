"""Following a job: one line of progress that moves, and its messages above it.

The job is polled, so a server that restarts in between is only a pause. Ctrl-C detaches; the job goes on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from graftwork.cli.connection import Server
from graftwork.cli.output import duration, say, sparkline
from graftwork.core.errors import GraftworkError, Unavailable

ENDED = {"succeeded", "failed", "cancelled", "paused"}
_PATIENCE = 120.0


def follow(
    server: Server, job_id: str, *, pause: float = 1.0, sleep: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """Show a job's messages and progress until it ends; the final job object.

    Ctrl-C returns the job as it last was, with a word on how to come back.
    """
    view = _View()
    seen: set[str] = set()
    job: dict[str, Any] = {"id": job_id, "status": "unknown"}
    try:
        while True:
            job = _patiently(lambda: server.get(f"/v1/fine_tuning/jobs/{job_id}"), sleep)
            for event in _new_events(server, job_id, seen, sleep):
                view.message(event)
            view.progress(job)
            if job["status"] in ENDED:
                view.close()
                return job
            sleep(pause)
    except KeyboardInterrupt:
        view.close()
        say("Detached; the job goes on.")
        say(f"Follow it: graft job logs {job_id} --follow   Stop it: graft job cancel {job_id}")
        return job


def _patiently(call: Callable[[], Any], sleep: Callable[[float], None]) -> Any:
    """The call's result, retried while the server is away."""
    waited = 0.0
    while True:
        try:
            return call()
        except Unavailable:
            if waited >= _PATIENCE:
                raise
            if waited == 0.0:
                say("The server does not answer; waiting for it to come back.")
            sleep(2.0)
            waited += 2.0


def _new_events(
    server: Server, job_id: str, seen: set[str], sleep: Callable[[float], None]
) -> list[dict[str, Any]]:
    """Messages not shown before, oldest first."""
    fresh: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = _patiently(
            lambda cursor=after: server.get(f"/v1/fine_tuning/jobs/{job_id}/events", limit=100, after=cursor),
            sleep,
        )
        new = [event for event in page["data"] if event["id"] not in seen]
        fresh += new
        if len(new) < len(page["data"]) or not page["has_more"]:
            break
        after = page["data"][-1]["id"]
    seen.update(event["id"] for event in fresh)
    return [event for event in reversed(fresh) if event.get("type") != "metrics"]


class _View:
    """Messages as lines; progress as one line rewritten in place on a terminal, rarely in a pipe."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.open = False
        self.last_step = -1

    def message(self, event: dict[str, Any]) -> None:
        """One message of the job."""
        self._clear()
        mark = {"warn": "warning: ", "error": "error: "}.get(event.get("level", "info"), "")
        clock = time.strftime("%H:%M:%S", time.localtime(event["created_at"]))
        say(f"{clock}  {mark}{event['message']}")

    def progress(self, job: dict[str, Any]) -> None:
        """The job's progress line."""
        line = progress_line(job)
        if not line:
            return
        if self.live:
            self._clear()
            sys.stderr.write(line[:200])
            sys.stderr.flush()
            self.open = True

    def _clear(self) -> None:
        if self.open:
            sys.stderr.write("\r\x1b[2K")
            self.open = False

    def close(self) -> None:
        """Leave the terminal clean."""
        self._clear()


def progress_line(job: dict[str, Any]) -> str:
    """``training  step 12/50  ▇▅▃▂  loss 0.52  3,100 tok/s  ETA 20s``, or the phase alone."""
    extra = job.get("graftwork") or {}
    progress = extra.get("progress") or {}
    parts = [str(extra.get("phase") or job["status"])]
    if progress.get("total_steps"):
        parts.append(f"step {progress.get('step', 0)}/{progress['total_steps']}")
        parts.append(sparkline(progress.get("losses") or []))
    if progress.get("loss") is not None:
        parts.append(f"loss {progress['loss']:.3f}")
    if progress.get("tokens_per_s"):
        parts.append(f"{progress['tokens_per_s']:,.0f} tok/s")
    if progress.get("eta_s") is not None and job["status"] == "running":
        parts.append(f"ETA {duration(progress['eta_s'])}")
    return "  ".join(part for part in parts if part)


def outcome(job: dict[str, Any]) -> int:
    """Say how a job ended; the exit code it deserves (0 succeeded, paused or still running; 1 otherwise)."""
    extra = job.get("graftwork") or {}
    if job["status"] == "succeeded":
        say(f"Succeeded: {job['fine_tuned_model']}  ({job['trained_tokens']:,} tokens trained)")
        if extra.get("gate"):
            show_gate(extra["gate"])
        return 0
    if job["status"] == "failed":
        error = job.get("error") or {}
        say(f"Failed ({error.get('code')}): {error.get('message')}")
        return 1
    if job["status"] == "cancelled":
        say("Cancelled.")
        return 1
    return 0


def show_gate(gate: dict[str, Any]) -> None:
    """The gate's table and its reasons, on stderr."""
    for line in gate_lines(gate):
        say(line)


def gate_lines(gate: dict[str, Any]) -> list[str]:
    """Verdict, then measure / base / live / new in columns, then one reason a line."""
    columns = ["measure", "base", "live", "new"]
    rows = [columns] + [[_figure(row.get(column)) for column in columns] for row in gate.get("table", [])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = [f"Gate {gate.get('name', 'default')}: {str(gate['verdict']).upper()}"]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [row[i].rjust(widths[i]) for i in range(1, len(columns))]
        lines.append("  " + "  ".join(cells).rstrip())
    lines += [f"  - {reason}" for reason in gate.get("reasons", [])]
    return lines


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def job_or_error(server: Server, job_id: str) -> dict[str, Any]:
    """A job by id; the server's error if there is none."""
    try:
        return server.get(f"/v1/fine_tuning/jobs/{job_id}")
    except GraftworkError as error:
        if not error.fix and error.code.endswith("not_found"):
            error.fix = "List yours with: graft job ls"
        raise
