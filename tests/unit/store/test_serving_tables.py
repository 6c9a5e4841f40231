"""Endpoints, placements, prices, settings, the generation and the gateway's snapshot."""

from dataclasses import replace

from graftwork.core.nouns import ApiKey, Checkpoint
from graftwork.core.states import Phase, PlacementState
from graftwork.store import Store


async def test_a_base_model_has_one_endpoint(store: Store):
    async with store.begin() as tx:
        endpoint = await tx.endpoints.ensure("seedling", "embedded", 1.0)
        assert await tx.endpoints.ensure("seedling", "vllm", 2.0) == endpoint
        assert await tx.endpoints.by_base("none") is None
        assert await tx.endpoints.update(endpoint.id, state="ready", url="http://x", token="t", generation=1)
        assert not await tx.endpoints.update("ep_none", state="ready")
        changed = replace(endpoint, state="ready", url="http://x", token="t", generation=1)
        assert await tx.endpoints.get(endpoint.id) == await tx.endpoints.by_base("seedling") == changed
        assert await tx.endpoints.list() == [changed]


async def test_a_placement_is_wanted_unwanted_and_wanted_again(store: Store, world):
    project = await world.project()
    weights = (await world.weights(project.id)).digest
    async with store.begin() as tx:
        endpoint = await tx.endpoints.ensure("seedling", "embedded", 1.0)
        placement = await tx.placements.ensure(endpoint.id, project.id, weights, 1.0)
        assert await tx.placements.ensure(endpoint.id, project.id, weights, 2.0) == placement
        [claim] = await tx.placements.claim("one")
        assert await tx.placements.apply(
            claim, state=PlacementState.READY, generation=1, ready_at=3.0, probe={"ok": True}
        )
        ready = await tx.placements.ensure(endpoint.id, project.id, weights, 4.0)
        assert ready.state is PlacementState.READY  # asking again does not disturb it
        assert await tx.placements.by_weights(weights) == ready
        assert await tx.placements.unwant(placement.id)
        assert not await tx.placements.unwant(placement.id)
        assert await tx.placements.by_weights(weights) is None
        assert await tx.placements.all_for_snapshot() == []
        assert [p.wanted for p in await tx.placements.list(endpoint.id)] == [False]
        # Whoever is loading it right now finds that it is not wanted any more.
        assert not await tx.placements.apply(claim, state=PlacementState.READY)
        again = await tx.placements.ensure(endpoint.id, project.id, weights, 5.0)
        assert (again.id, again.wanted, again.state) == (placement.id, True, PlacementState.PENDING)


async def test_placements_are_claimed_released_and_poked(store: Store, world):
    project = await world.project()
    weights = (await world.weights(project.id)).digest
    async with store.begin() as tx:
        endpoint = await tx.endpoints.ensure("seedling", "embedded", 1.0)
        placement = await tx.placements.ensure(endpoint.id, project.id, weights, 1.0)
        [claim] = await tx.placements.claim("one", 5, 60)
        assert claim.item == placement
        assert await tx.placements.claim("two") == []
        assert await tx.placements.renew(claim, 60)
        assert await tx.placements.release(claim, await tx.now() + 1000)
        assert await tx.placements.claim("two") == []
        await tx.placements.poke(endpoint.id)
        [claim] = await tx.placements.claim("two")
        assert not await tx.placements.release(replace(claim, token="stale"), 0)


async def test_prices_are_versioned_and_settings_kept(store: Store):
    async with store.begin() as tx:
        assert await tx.prices.current() == {}
        assert await tx.prices.put("v1", {"version": "v1"})
        assert await tx.prices.put("v2", {"version": "v2"})
        assert not await tx.prices.put("v1", {"version": "other"})
        assert await tx.prices.current() == {"version": "v2"}
        assert await tx.prices.get("v1") == {"version": "v1"}
        assert await tx.prices.get("v9") is None
        assert await tx.settings.get("install") is None
        assert await tx.settings.put_new("install", "abc") == "abc"
        assert await tx.settings.put_new("install", "other") == "abc"
        await tx.settings.put("install", {"id": 1})
        assert await tx.settings.get("install") == {"id": 1}


async def test_the_generation_rises_with_what_the_gateway_sees_and_only_then(store: Store, world):
    project = await world.project()
    job = await world.job(project.id, phase=Phase.DEPLOYING)
    weights = (await world.weights(project.id)).digest
    adapter = await world.adapter(project.id)
    version = await world.version(adapter)
    key = ApiKey(id="key_1", project_id=project.id, name="k", lookup="l", digest="d", created_at=1.0)
    point = Checkpoint(id="ftckpt_1", job_id=job.id, fence=1, step=5, created_at=1.0, metrics={})

    async def rises(act) -> bool:
        before = await store.generation()
        async with store.begin() as tx:
            await act(tx)
        return await store.generation() > before

    async def ensure_endpoint(tx):
        return await tx.endpoints.ensure("seedling", "embedded", 1.0)

    async def apply_to_job(tx, **changes):
        claims = await tx.jobs.claim("one", 9)
        assert await tx.jobs.apply(claims[0], **changes)
        for claim in claims:
            await tx.jobs.release(claim, 0)

    async def place(tx):
        await tx.placements.ensure((await ensure_endpoint(tx)).id, project.id, weights, 1.0)

    async def load(tx, **changes):
        [claim] = await tx.placements.claim("one")
        assert await tx.placements.apply(claim, **changes)
        await tx.placements.release(claim, 0)

    assert await rises(lambda tx: tx.keys.create(key))
    assert not await rises(lambda tx: tx.keys.touch(["key_1"], 2.0))
    assert await rises(lambda tx: tx.keys.revoke(project.id, "key_1", 2.0))
    assert await rises(lambda tx: tx.projects.set_budget(project.id, 5))
    assert not await rises(lambda tx: tx.checkpoints.add(point))
    assert await rises(lambda tx: tx.checkpoints.add(replace(point, id="ftckpt_2", step=2, weights=weights)))
    assert not await rises(lambda tx: apply_to_job(tx, progress=3))
    assert await rises(lambda tx: apply_to_job(tx, fine_tuned_model="ft:x"))
    assert await rises(
        lambda tx: tx.aliases.move(
            adapter.id, "a", version.id, expected_generation=0, actor="", reason="", at=1.0
        )
    )
    assert await rises(ensure_endpoint)
    assert not await rises(ensure_endpoint)
    assert await rises(place)
    assert not await rises(place)
    assert await rises(lambda tx: load(tx, state=PlacementState.LOADING))
    assert not await rises(lambda tx: load(tx, probe={"n": 1}))
    assert await rises(lambda tx: tx.prices.put("v1", {}))
    assert not await rises(lambda tx: tx.settings.put("a", 1))


async def test_the_snapshot_shows_what_may_be_called(store: Store, world):
    project, other = await world.project(budget=9), await world.project()
    adapter = await world.adapter(project.id)
    one, two, gone = [await world.version(adapter) for _ in range(3)]
    running = await world.job(project.id)
    async with store.begin() as tx:
        now = await tx.now()
        for n, extra in enumerate(
            [{}, {"expires_at": now - 1}, {"expires_at": now + 99}, {"revoked_at": 1.0}]
        ):
            await tx.keys.create(
                ApiKey(
                    id=f"key_{n}",
                    project_id=project.id,
                    name="k",
                    lookup=f"l{n}",
                    digest="d",
                    created_at=1.0,
                    **extra,
                )
            )
        await tx.versions.mark_deleted(project.id, gone.id, 1.0)
        await tx.aliases.move(
            adapter.id, "production", two.id, expected_generation=0, actor="", reason="", at=1.0
        )
        for job_id, step, weights in (
            (one.job_id, 10, one.weights),
            (one.job_id, 20, None),
            (running.id, 10, two.weights),
        ):
            point = Checkpoint(
                id=f"ck{job_id}{step}", job_id=job_id, fence=1, step=step, created_at=1.0, metrics={}
            )
            await tx.checkpoints.add(replace(point, weights=weights))
        claims = {c.item.id: c for c in await tx.jobs.claim("one", 9)}
        await tx.jobs.apply(claims[one.job_id], fine_tuned_model=one.model)
        endpoint = await tx.endpoints.ensure("seedling", "embedded", 1.0)
        await tx.endpoints.update(endpoint.id, state="ready", url="http://e", token="t", generation=3)
        for version, generation in ((one, 3), (two, 2)):
            await tx.placements.ensure(endpoint.id, project.id, version.weights, 1.0)
            [claim] = await tx.placements.claim("one")
            await tx.placements.apply(claim, state=PlacementState.READY, generation=generation)
        dropped = await tx.placements.ensure(endpoint.id, project.id, gone.weights, 1.0)
        await tx.placements.unwant(dropped.id)
        await tx.prices.put("v1", {"version": "v1"})
    async with store.read() as tx:
        shot = await tx.snapshot()
    assert shot.generation == await store.generation()
    assert set(shot.keys) == {"l0", "l2"}
    assert (shot.keys["l0"].project_id, shot.keys["l2"].expires_at) == (project.id, now + 99)
    assert set(shot.projects) == {project.id, other.id}
    assert (shot.projects[project.id].budget, shot.projects[project.id].spent) == (9, 0)
    assert set(shot.models) == {one.model, two.model}
    assert shot.versions[project.id, "support", 1] is shot.models[one.model]
    assert (project.id, "support", 3) not in shot.versions
    assert shot.aliases == {(project.id, "support", "production"): shot.models[two.model]}
    assert {name: c.weights for name, c in shot.checkpoints.items()} == {
        f"{one.model}:ckpt-step-10": one.weights
    }
    assert shot.endpoints["seedling"].url == "http://e"
    assert {w: p.ready for w, p in shot.placements.items()} == {one.weights: True, two.weights: False}
    assert shot.placements[one.weights].endpoint.token == "t"
    assert shot.prices == {"version": "v1"}
    assert shot.models[one.model].adapter == "support"
