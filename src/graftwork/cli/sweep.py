"""``graft sweep``: try several learning rates, ranks and epochs together, and keep the best."""

from __future__ import annotations

import time
from typing import Any

from graftwork.cli.connection import Server, connect, existing_file
from graftwork.cli.output import Column, put, put_json, say, table
from graftwork.core.errors import InvalidRequest

_LOOK = 1.0
"""Seconds between two looks at a sweep."""
_COLUMNS = [
    Column("number", "trial", right=True),
    Column("rank", "rank", right=True),
    Column("rate", "rate", right=True),
    Column("epochs", "epochs", right=True),
    Column("state", "state"),
    Column("step", "step", right=True),
    Column("loss", "held-out loss", right=True),
    Column("rungs", "at each rung"),
    Column("tokens", "tokens", right=True),
    Column("cost", "cost", right=True),
    Column("job", "job"),
]


def sweep(
    file: str,
    /,
    *,
    base: str = "seedling",
    validation: str | None = None,
    suffix: str | None = None,
    seed: int | None = None,
    ranks: str = "8,32",
    rates: str = "0.3,1,3",
    epochs: str = "",
    trials: int | None = None,
    max_cost: str | None = None,
    detach: bool = False,
    json: bool = False,
) -> int:
    """Search for good hyperparameters: all trials begin together on one base model, the worse stop early.

    At a third (a ninth, …) of their ways the trials are compared by their held-out loss and one in three goes
    on. The last one trains to the end and becomes a version, as the adapter of any job. All trials are billed
    for what they trained.

    Parameters
    ----------
    file:
        Training data.
    base:
        Base model.
    validation:
        Held-out data; without it a tenth of the training rows is held out, the same for all trials.
    suffix:
        Name of the adapter.
    ranks:
        LoRA ranks, with commas between.
    rates:
        Learning rate multipliers.
    epochs:
        Passes over the data; automatic when empty.
    trials:
        Draw so many of all combinations; all are tried when not given.
    max_cost:
        Refuse any trial that would cost more dollars than this.
    detach:
        Print the sweep's id and return.
    """
    server = connect()
    training, held_out = existing_file(file), existing_file(validation) if validation else None
    search: dict[str, Any] = {
        "ranks": _numbers(ranks, int, "ranks"),
        "rates": _numbers(rates, float, "rates"),
        "epochs": _numbers(epochs, int, "epochs"),
        "trials": trials,
    }
    body: dict[str, Any] = {"model": base, "suffix": suffix, "seed": seed, "search": search}
    body["graftwork"] = {"max_cost": max_cost} if max_cost else None
    body["training_file"] = server.upload(training)["id"]
    if held_out:
        body["validation_file"] = server.upload(held_out)["id"]
    found = server.post("/api/sweeps", body)
    say(f"Sweep {found['id']}: {len(found['trials'])} trials.")
    if detach:
        put(found["id"])
        return 0
    return _show(_follow(server, found), json)


def _follow(server: Server, found: dict[str, Any]) -> dict[str, Any]:
    told = ""
    while found["state"] == "running":
        left = sum(trial["state"] in {"in", "best"} for trial in found["trials"])
        line = f"rung {found['rung']}: {left} of {len(found['trials'])} trials are in"
        if line != told:
            say(line)
            told = line
        time.sleep(_LOOK)
        found = server.get(f"/api/sweeps/{found['id']}")
    return found


def _show(found: dict[str, Any], json: bool) -> int:
    if json:
        put_json(found)
    else:
        order = sorted(found["trials"], key=lambda t: (-len(t["losses"]), (t["losses"] or [9e9])[-1]))
        table([_line(trial) for trial in order], _COLUMNS)
        say(f"{found['state']}: {found['fine_tuned_model'] or found['message'] or ''}  cost {found['cost']}")
    return 0 if found["state"] == "succeeded" else 1


def _line(trial: dict[str, Any]) -> dict[str, Any]:
    losses = trial["losses"]
    return {
        **trial,
        "loss": trial["valid_loss"] if trial["valid_loss"] is not None else losses[-1] if losses else None,
        "rungs": " ".join(f"{loss:.3f}" for loss in losses) or None,
        "tokens": trial["trained_tokens"],
    }


def _numbers(text: str, kind: type[int] | type[float], name: str) -> list[Any]:
    try:
        return [kind(part) for part in text.replace(" ", "").split(",") if part]
    except ValueError:
        raise InvalidRequest(
            f"--{name} {text!r} is not a list of numbers.",
            fix=f"Give numbers with commas between, such as --{name} 8,16.",
            param=name,
        ) from None
