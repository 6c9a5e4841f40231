"""``graft dataset keep|from-logs|forget``: requests that the project opted to keep, as training data."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from graftwork.cli.connection import connect, given
from graftwork.cli.files import must_be_new, whole_file
from graftwork.cli.output import put, put_json, say
from graftwork.core.errors import InvalidRequest

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}


def keep(
    mode: Literal["off", "asked", "all"] | None = None,
    /,
    *,
    days: int | None = None,
    redact: bool | None = None,
    json: bool = False,
) -> int:
    """What the project has kept of its requests; with a mode, opt in or out.

    Nothing is kept until a project opts for it, and nobody but the project sees what is.

    Parameters
    ----------
    mode:
        `off`: nothing; `asked`: requests sent with `store: true`; `all`: all but those with `store: false`.
    days:
        How long requests are kept.
    redact:
        Blot out mail addresses, telephone and card numbers and keys before a request is kept.
    """
    server = connect()
    changes = given({"mode": mode, "days": days, "redact": redact})
    now = server.call("PUT", "/api/kept", json=changes) if changes else server.get("/api/kept")
    if json:
        put_json(now)
        return 0
    put(now["mode"])
    blotted = "addresses, numbers and keys blotted out" if now["redact"] else "as they are"
    say(
        f"  {now['requests']:,} requests ({now['bytes'] / 1e6:.1f} MB) kept for {now['days']} days, {blotted}"
    )
    return 0


def from_logs(
    *,
    output: Annotated[str, Parameter(name=["--output", "-o"])],
    model: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: int = 50_000,
    near: float | None = None,
    json: bool = False,
) -> int:
    """Write a data set of kept requests and their answers.

    Parameters
    ----------
    output:
        The new file.
    model:
        An adapter (`support`), a version (`support@3`) or a base model; without it, all.
    since, until:
        A time: 7d, 12h or 30m ago, or 2026-11-21.
    limit:
        Most requests, the newest.
    near:
        Overlap of texts from which only the first of like rows is taken.
    """
    target = Path(output)
    must_be_new(target)
    server = connect()
    asked = {"model": model, "since": moment(since), "until": moment(until), "near": near}
    made = server.post("/api/datasets/from-logs", given({**asked, "limit": limit}))
    if made["file"] is not None:
        with whole_file(target) as part, part.open("wb") as handle:
            server.download(f"/v1/files/{made['file']['id']}/content", handle)
    if json:
        put_json({**made, "path": output if made["file"] else None})
        return 0 if made["file"] else 2
    skipped = ", ".join(f"{count} {why}" for why, count in made["skipped"].items()) or "none"
    say(
        f"  {made['requests']:,} requests gave {made['rows']:,} rows; {made['duplicates']} duplicates, "
        f"skipped: {skipped}"
    )
    if made["file"] is None:
        raise InvalidRequest(
            "There is nothing to write.",
            fix="Opt in with `graft dataset keep all`, send some requests, and try again.",
            code="nothing_kept",
        )
    put(output)
    return 0


def forget(
    *,
    model: str | None = None,
    before: str | None = None,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"])] = False,
) -> int:
    """Delete kept requests for good: of a model, of before a time, or all.

    Parameters
    ----------
    model:
        An adapter, a version or a base model; without it, all.
    before:
        A time: 7d, 12h or 30m ago, or 2026-11-21.
    yes:
        Needed to delete everything.
    """
    if model is None and before is None and not yes:
        raise InvalidRequest(
            "This would delete every kept request.",
            fix="Say --yes, or name a model or a time.",
            code="confirmation_needed",
        )
    asked = given({"model": model, "before": moment(before)})
    gone = connect().call("DELETE", "/api/kept", params=asked)
    say(f"  {gone['deleted']:,} requests deleted")
    return 0


def moment(text: str | None, now: float | None = None) -> float | None:
    """Unix time of ``7d`` (ago) or of a local date.

    Raises:
        InvalidRequest: it is neither.
    """
    if text is None:
        return None
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text)
    if ago:
        return (time.time() if now is None else now) - float(ago[1]) * _UNITS[ago[2]]
    for shape in ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"):
        try:
            return time.mktime(time.strptime(text, shape))
        except ValueError:
            continue
    raise InvalidRequest(
        f"{text!r} is no time.", fix="Write 7d, 12h, 30m or 2026-11-21.", code="invalid_value"
    )
