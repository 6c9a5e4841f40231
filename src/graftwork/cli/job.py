"""``graft job``: list, follow, cancel, pause and resume."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from graftwork.cli.connection import connect
from graftwork.cli.output import Column, duration, put, put_json, say, sparkline, table, when
from graftwork.cli.watch import follow, gate_lines, job_or_error, outcome, progress_line

app = App(name="job", help="List, follow, cancel, pause and resume jobs.", help_format="plaintext")

_COLUMNS = [
    Column("id", "job"),
    Column("status", "status"),
    Column("model", "base"),
    Column("suffix", "adapter"),
    Column("step", "step", right=True),
    Column("loss", "loss", right=True),
    Column("course", "course"),
    Column("created", "created"),
    Column("result", "model"),
]


@app.command
def ls(*, limit: int = 20, json: bool = False, quiet: bool = False) -> None:
    """List jobs, newest first.

    Parameters
    ----------
    limit:
        At most this many.
    """
    page = connect().get("/v1/fine_tuning/jobs", limit=limit)
    if json:
        put_json(page["data"])
        return
    table([_line(job) for job in page["data"]], _COLUMNS, quiet=quiet)
    if not page["data"]:
        say("No jobs yet. Start one: graft train data.jsonl --base seedling")


def _line(job: dict[str, Any]) -> dict[str, Any]:
    extra = job.get("graftwork") or {}
    progress = extra.get("progress") or {}
    total = progress.get("total_steps")
    return {
        "id": job["id"],
        "status": job["status"],
        "model": job["model"],
        "suffix": extra.get("adapter"),
        "step": f"{progress.get('step', 0)}/{total}" if total else None,
        "loss": progress.get("loss"),
        "course": sparkline(progress.get("losses") or [], width=16),
        "created": when(job["created_at"]),
        "result": job["fine_tuned_model"],
    }


@app.command
def show(job: str, /, *, json: bool = False) -> None:
    """Everything about one job."""
    found = job_or_error(connect(), job)
    if json:
        put_json(found)
        return
    extra = found.get("graftwork") or {}
    put(f"{found['id']}  {found['status']}  ({extra.get('phase')})")
    put(f"  base {found['model']}   seed {found['seed']}   created {when(found['created_at'])}")
    if found["finished_at"]:
        put(f"  took {duration(found['finished_at'] - found['created_at'])}")
    put("  " + progress_line(found))
    _show_choices(found, extra)
    if found["fine_tuned_model"]:
        put(f"  model {found['fine_tuned_model']}")
    for line in gate_lines(extra["gate"]) if extra.get("gate") else []:
        put("  " + line)
    if found.get("error") and found["error"].get("message"):
        put(f"  error {found['error']['code']}: {found['error']['message']}")


def _show_choices(found: dict[str, Any], extra: dict[str, Any]) -> None:
    chosen = found.get("hyperparameters") or {}
    put("  " + "   ".join(f"{name} {value}" for name, value in chosen.items()))
    explained = (extra.get("plan") or {}).get("explained") or {}
    for name, why in explained.items():
        put(f"    {name}: {why}")


@app.command
def logs(
    job: str, /, *, follow_: Annotated[bool, Parameter(name=["--follow", "-f"])] = False, json: bool = False
) -> int:
    """A job's messages, oldest first.

    Parameters
    ----------
    follow_:
        Stay until the job ends.
    """
    server = connect()
    job_or_error(server, job)
    if follow_:
        return outcome(follow(server, job))
    events = list(server.pages(f"/v1/fine_tuning/jobs/{job}/events"))[::-1]
    if json:
        put_json(events)
        return 0
    for event in events:
        put(f"{when(event['created_at'])}\t{event['level']}\t{event['message']}")
    return 0


@app.command
def cancel(job: str, /) -> None:
    """Stop a job; its machine is taken down, what was trained is billed."""
    _act(job, "cancel")


@app.command
def pause(job: str, /) -> None:
    """Checkpoint a job and give its machine back."""
    _act(job, "pause")


@app.command
def resume(job: str, /) -> None:
    """Go on with a paused job where it stopped."""
    _act(job, "resume")


def _act(job: str, verb: str) -> None:
    found = connect().post(f"/v1/fine_tuning/jobs/{job}/{verb}")
    say(f"{found['id']}: {found['status']}")
    put(found["id"])
