"""The control plane is killed at each single point of a job's life, one after the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from controlhouse import Crash, Fuse, House, ends_well


async def _killed_at(template: Path, root: Path, point: int) -> list[str]:
    """Run a job whose control plane is killed at ``point`` and started again; the points passed before."""
    root.mkdir()
    shutil.copy(template, root / "store.db")
    house = await House.build(f"sqlite:///{root / 'store.db'}", root)
    fuse = house.fuse = Fuse(point)
    try:
        house.boot()
        job_id = (await house.create()).job.id
        try:
            await house.until(job_id)
        except Crash:
            house.fuse = Fuse()
            house.boot()
            await house.clock.advance(house.pace.lease)  # until the dead one's claims have run out
        await ends_well(house, await house.until(job_id))
        return fuse.passed
    finally:
        await house.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_killed_between_any_two_steps_a_job_ends_the_same(sqlite_template: Path, tmp_path: Path):
    points = await _killed_at(sqlite_template, tmp_path / "whole", 10_000)
    assert {"launch done", "terminate done", "training: acted", "deploying: applied"} <= set(points)
    for point in range(len(points)):
        passed = await _killed_at(sqlite_template, tmp_path / f"p{point}", point)
        assert len(passed) == point + 1, "it was not killed"
