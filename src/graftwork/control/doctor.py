"""Is this installation well? A few checks, each with what to do if not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graftwork.compute.port import Need, Unknown
from graftwork.control.reconcilers.jobs.context import Pool
from graftwork.core.errors import UserError
from graftwork.core.specs import TrainerName
from graftwork.models.trainers import configured, variable_of
from graftwork.store import Store

LOW_DISK = 2 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    state: Literal["ok", "warn", "fail"]
    seen: str
    fix: str = ""


async def check_all(
    store: Store, pools: Mapping[str, Pool], data: Path, environment: Mapping[str, str]
) -> list[Check]:
    """Database, disk, engines, providers, and the trainers that ``environment`` names."""
    checks = [Check("database", "ok", f"generation {await store.generation()}"), _disk(data)]
    async with store.read() as tx:
        endpoints = await tx.endpoints.list()
        machines = await tx.machines.live()
    for endpoint in endpoints:
        state = {"ready": "ok", "failed": "fail"}.get(endpoint.state, "warn")
        fix = "See the engine's log." if state == "fail" else ""
        seen = endpoint.message or endpoint.state
        checks.append(Check(f"engine for {endpoint.base}", _state(state), seen, fix))
    for name, pool in pools.items():
        used = sum(machine.provider == name for machine in machines)
        checks.append(await _provider(name, pool, used))
    return [*checks, *(_trainer(name, python) for name, python in configured(environment).items())]


def _disk(data: Path) -> Check:
    free = shutil.disk_usage(data).free
    low = free < LOW_DISK
    return Check(
        "disk", "warn" if low else "ok", f"{free >> 30} GiB free at {data}", "Free some." if low else ""
    )


async def _provider(name: str, pool: Pool, used: int) -> Check:
    try:
        offers = await pool.provider.offers(Need())
    except (Unknown, UserError) as error:
        return Check(f"provider {name}", "fail", error.message, error.fix)
    limit = "" if pool.limit is None else f" of {pool.limit}"
    state = "ok" if offers else "warn"
    return Check(f"provider {name}", _state(state), f"{used}{limit} machines in use, {len(offers)} offers")


def _trainer(name: TrainerName, python: str) -> Check:
    if shutil.which(python) is None:
        return Check(f"trainer {name}", "fail", f"no Python at {python}", f"Mend {variable_of(name)}.")
    return Check(f"trainer {name}", "ok", python)


def _state(text: str) -> Literal["ok", "warn", "fail"]:
    return "ok" if text == "ok" else "warn" if text == "warn" else "fail"
