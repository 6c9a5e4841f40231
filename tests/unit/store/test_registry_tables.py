"""Adapters, versions, aliases, weights and evaluations."""

from dataclasses import replace

import pytest
from sqlalchemy.exc import IntegrityError

from graftwork.core.errors import Conflict, NotFound
from graftwork.core.nouns import Evaluation, Version
from graftwork.core.states import Verdict
from graftwork.store import Store
from graftwork.store.tables import aliases


async def test_an_adapter_is_made_once_and_stays_on_its_base(store: Store, world):
    one, two = await world.project(), await world.project()
    async with store.begin() as tx:
        adapter = await tx.adapters.ensure(one.id, "support", "seedling", 1.0)
        assert await tx.adapters.ensure(one.id, "support", "seedling", 2.0) == adapter
        assert await tx.adapters.ensure(two.id, "support", "other", 2.0) != adapter
        with pytest.raises(Conflict) as caught:
            await tx.adapters.ensure(one.id, "support", "other", 3.0)
        assert caught.value.code == "adapter_on_other_base"
        assert await tx.adapters.get(one.id, adapter.id) == adapter
        assert await tx.adapters.get(two.id, adapter.id) is None
        assert await tx.adapters.get_by_name(one.id, "else") is None
        assert await tx.adapters.list(one.id) == [adapter]


async def test_versions_are_numbered_within_their_adapter(store: Store, world):
    project = await world.project()
    first, second = await world.adapter(project.id), await world.adapter(project.id, "rewriter")
    versions = [await world.version(adapter) for adapter in (first, first, second, first)]
    assert [v.number for v in versions] == [1, 2, 1, 3]
    async with store.begin() as tx:
        assert await tx.versions.create(replace(versions[1], number=0)) == versions[1]  # the same again
        assert (
            await tx.versions.create(replace(versions[1], id="f" * 64)) == versions[1]
        )  # the job made it already
        assert await tx.versions.list(first.id) == [versions[3], versions[1], versions[0]]
        assert await tx.versions.by_number(first.id, 2) == versions[1]
        assert await tx.versions.by_model(project.id, versions[2].model) == versions[2]
        assert await tx.versions.by_job(versions[2].job_id) == versions[2]
        assert await tx.versions.get("proj_other", versions[0].id) is None
        assert await tx.versions.by_model("proj_other", versions[0].model) is None
        with pytest.raises(NotFound):
            await tx.versions.create(
                replace(versions[1], id="e" * 64, job_id="ftjob-x", adapter_id="adapter_x")
            )


async def test_an_alias_moves_by_compare_and_set_and_keeps_its_history(store: Store, world):
    adapter = await world.adapter((await world.project()).id)
    one, two = await world.version(adapter), await world.version(adapter)

    async def move(tx, version: Version, expected: int):
        return await tx.aliases.move(
            adapter.id,
            "production",
            version.id,
            expected_generation=expected,
            actor="me",
            reason=f"g{expected}",
            at=5.0,
        )

    async with store.begin() as tx:
        with pytest.raises(Conflict) as caught:
            await move(tx, one, 3)  # there is none yet
        assert caught.value.code == "alias_moved"
        made = await move(tx, one, 0)
        assert (made.version_id, made.generation) == (one.id, 1)
        for stale in (0, 2):
            with pytest.raises(Conflict):
                await move(tx, two, stale)
        moved = await move(tx, two, 1)
        assert await tx.aliases.get(adapter.id, "production") == moved
        assert await tx.aliases.list(adapter.id) == [moved]
        history = [
            (m.generation, m.from_version, m.to_version, m.reason)
            for m in await tx.aliases.moves(adapter.id, "production")
        ]
    assert history == [(2, one.id, two.id, "g1"), (1, None, one.id, "g0")]


async def test_an_alias_cannot_point_outside_its_adapter_or_at_nothing(store: Store, world):
    project = await world.project()
    mine, other = await world.adapter(project.id), await world.adapter(project.id, "other")
    foreign = await world.version(other)
    async with store.begin() as tx:
        for target in (foreign.id, "0" * 64):
            with pytest.raises(NotFound) as caught:
                await tx.aliases.move(
                    mine.id, "a", target, expected_generation=0, actor="me", reason="", at=1.0
                )
            assert caught.value.code == "version_not_found"
    with pytest.raises(IntegrityError):  # and the database itself would not have it either
        async with store.begin() as tx:
            row = {
                "adapter_id": mine.id,
                "name": "a",
                "version_id": foreign.id,
                "generation": 1,
                "updated_at": 1.0,
            }
            await tx.session.run(aliases.insert().values(**row))


async def test_a_version_in_use_is_not_deleted_and_a_deleted_one_not_used(store: Store, world):
    project = await world.project()
    adapter = await world.adapter(project.id)
    one, two = await world.version(adapter), await world.version(adapter)
    async with store.begin() as tx:
        await tx.aliases.move(
            adapter.id, "production", one.id, expected_generation=0, actor="me", reason="", at=1.0
        )
        with pytest.raises(Conflict) as caught:
            await tx.versions.mark_deleted(project.id, one.id, 2.0)
        assert caught.value.code == "version_in_use"
        assert "'production'" in caught.value.message
        assert not await tx.versions.mark_deleted("proj_other", two.id, 2.0)
        assert await tx.versions.mark_deleted(project.id, two.id, 2.0)
        assert not await tx.versions.mark_deleted(project.id, two.id, 3.0)
        assert (await tx.versions.get(project.id, two.id)).deleted_at == 2.0
        assert await tx.versions.by_model(project.id, two.model) is None
        assert await tx.versions.list(adapter.id) == await tx.versions.all_for_snapshot() == [one]
        with pytest.raises(NotFound):
            await tx.aliases.move(
                adapter.id, "production", two.id, expected_generation=1, actor="me", reason="", at=1.0
            )
    three = await world.version(adapter)
    assert three.number == 3  # numbers are never given twice


async def test_weights_and_evaluations_are_kept_once(store: Store, world):
    project = await world.project()
    job, weights = await world.job(project.id), await world.weights(project.id)
    evaluations = [
        Evaluation(
            id=f"eval_{n}", project_id=project.id, job_id=job.id, weights=weights.digest,
            verdict=Verdict.INCONCLUSIVE, report={"n": n}, created_at=float(n),
        )
        for n in (1, 2)
    ]  # fmt: skip
    async with store.begin() as tx:
        assert not await tx.weights.create(replace(weights, rank=99))
        assert await tx.weights.get(weights.digest) == weights
        assert await tx.weights.get("none") is None
        assert [await tx.evaluations.create(e) for e in evaluations] == [True, True]
        assert not await tx.evaluations.create(evaluations[0])
        assert await tx.evaluations.for_job(job.id) == evaluations[1]
        assert await tx.evaluations.for_job("ftjob-none") is None
        assert await tx.evaluations.get(project.id, "eval_1") == evaluations[0]
        assert await tx.evaluations.get("proj_other", "eval_1") is None
