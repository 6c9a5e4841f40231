"""Endpoints and placements: engines that crash, weights that come and go."""

from __future__ import annotations

from pathlib import Path

import pytest
from controlhouse import House

from graftwork.core.errors import Unavailable
from graftwork.core.nouns import Endpoint, Placement, Version
from graftwork.core.states import Phase, PlacementState
from graftwork.serving.port import EngineInfo
from graftwork.testing.fake_engine import FakeEngine


async def _deployed(house: House) -> Version:
    job = await house.until((await house.create()).job.id)
    assert job.phase is Phase.DONE
    return (await house.services.adapters.version(house.project.id, "codes")).version


async def _placement(house: House, weights: str) -> Placement:
    async with house.store.read() as tx:
        placement = await tx.placements.by_weights(weights)
    assert placement is not None
    return placement


async def _endpoint(house: House) -> Endpoint:
    async with house.store.read() as tx:
        endpoint = await tx.endpoints.by_base("seedling")
    assert endpoint is not None
    return endpoint


async def test_after_a_crash_of_the_engine_everything_is_loaded_and_proven_again(both: House):
    version = await _deployed(both)
    before = await _endpoint(both)
    await both.engine.crash()
    await both.endpoints.once()
    after = await _endpoint(both)
    assert after.generation > before.generation
    stale = await _placement(both, version.weights)
    assert stale.generation < after.generation  # not served: the gateway compares them
    await both.placements.once()
    again = await _placement(both, version.weights)
    assert (again.state, again.generation) == (PlacementState.READY, after.generation)
    assert version.weights[:32] in await both.engine.adapters()


async def test_while_an_engine_is_down_its_placements_say_so(house: House):
    class Down(FakeEngine):
        async def ensure(self, base: Path, name: str) -> EngineInfo:
            raise Unavailable("No memory for it.", code="engine_start_failed")

    version = await _deployed(house)
    await house.engine.destroy()
    house.engines._drivers = {(await _endpoint(house)).id: Down()}
    await house.endpoints.once()
    endpoint = await _endpoint(house)
    assert endpoint.state == "failed"
    assert endpoint.url is None
    assert "No memory for it." in (endpoint.message or "")
    await house.placements.once()
    placement = await _placement(house, version.weights)
    assert placement.state is PlacementState.PENDING
    assert placement.reason == "Its engine is starting."
    assert await house.endpoints.once() == 0  # backed off
    await house.clock.advance(2)
    assert await house.endpoints.once() == 1


async def test_an_adapter_that_an_engine_lost_is_loaded_again(house: House):
    version = await _deployed(house)
    await house.engine.unload(version.weights[:32])
    await house.clock.advance(31)
    await house.placements.once()
    assert version.weights[:32] in await house.engine.adapters()


async def test_a_damaged_blob_is_never_served(house: House):
    version = await _deployed(house)
    await house.engine.crash()
    blob = version.manifest["files"]["adapter_model.safetensors"]
    folder = house.root / "adapters" / version.weights
    (folder / "adapter_model.safetensors").chmod(0o644)
    (folder / "adapter_model.safetensors").write_bytes(b"other bytes")
    await house.endpoints.once()
    await house.placements.once()
    placement = await _placement(house, version.weights)
    assert placement.state is PlacementState.FAILED
    assert "does not hold the files it should" in (placement.reason or "")
    assert await house.engine.adapters() == set()
    assert len(blob) == 64


async def test_an_unwanted_adapter_is_unloaded_and_its_folder_outlives_it_for_a_while(house: House):
    version = await _deployed(house)
    placement = await _placement(house, version.weights)
    folder = house.root / "adapters" / version.weights
    async with house.store.begin() as tx:
        await tx.placements.unwant(placement.id)
    await house.placements.once()
    assert await house.engine.adapters() == set()
    assert folder.exists()
    await house.clock.advance(61)
    await house.placements.once()
    assert not folder.exists()
    async with house.store.begin() as tx:
        await tx.placements.ensure(placement.endpoint_id, placement.project_id, version.weights, 1.0)
    await house.placements.once()
    assert (await _placement(house, version.weights)).state is PlacementState.READY


async def test_a_checkpoint_is_served_when_it_is_wanted(house: House):
    job = await house.until((await house.create()).job.id)
    [_, early] = (await house.services.jobs.checkpoints(house.project.id, job.id)).items
    assert early.checkpoint.weights is not None
    name = early.checkpoint.weights[:32]
    assert name not in await house.engine.adapters()
    async with house.store.begin() as tx:
        endpoint = await _endpoint(house)
        await tx.placements.ensure(endpoint.id, house.project.id, early.checkpoint.weights, 1.0)
    await house.placements.once()
    assert name in await house.engine.adapters()
    assert (await house.services.models.get(house.project.id, early.model)).ready


@pytest.mark.parametrize("twice", [1, 2])
async def test_engines_are_left_alone_while_they_are_well(house: House, twice: int):
    await _deployed(house)
    generation = (await _endpoint(house)).generation
    async with house.store.read() as tx:
        before = await tx.placements.all_for_snapshot()
    for _ in range(twice):
        await house.endpoints.once()
        await house.placements.once()
    assert (await _endpoint(house)).generation == generation
    async with house.store.read() as tx:
        assert await tx.placements.all_for_snapshot() == before
