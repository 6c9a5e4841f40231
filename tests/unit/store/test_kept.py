"""Kept requests: opted for, of one's own only, gone when they are deleted, expired or too many."""

import pytest

from graftwork.core.errors import InvalidRequest
from graftwork.core.nouns import Keeping, KeptRequest


def request(project, number, **fields):
    given = {
        "id": f"chatcmpl-{project.id}-{number}",
        "project_id": project.id,
        "model": "support",
        "base": "seedling",
        "adapter": "support",
        "version": "support@1",
        "name": "ft:seedling:acme:support:x",
        "metadata": None,
        "bytes": 10,
        "body": b"\x00\xffbody",
        "created_at": float(number),
        "expires_at": 1e12,
    }
    return KeptRequest(**{**given, **fields})


async def test_nothing_is_opted_for_until_it_is_said(store, world):
    one, two = await world.project(), await world.project()
    async with store.begin() as tx:
        assert await tx.kept.keeping(one.id) == Keeping(project_id=one.id, mode="off", days=30, redact=True)
        before = await store.generation()
    async with store.begin() as tx:
        await tx.kept.opt(Keeping(project_id=one.id, mode="all", days=7))
        await tx.kept.opt(Keeping(project_id=one.id, mode="asked", days=9, redact=False))
    assert await store.generation() == before + 1
    async with store.read() as tx:
        assert await tx.kept.keeping(one.id) == Keeping(project_id=one.id, mode="asked", days=9, redact=False)
        assert (await tx.kept.keeping(two.id)).mode == "off"
        projects = (await tx.snapshot()).projects
        assert projects[one.id].keeping.mode == "asked" and projects[two.id].keeping is None
        assert len(await tx.kept.opted()) == 1


async def test_a_project_sees_its_own_only(store, world):
    one, two = await world.project(), await world.project()
    async with store.begin() as tx:
        await tx.kept.add([request(one, n) for n in range(3)] + [request(two, 9)])
        await tx.kept.add([request(one, 1)])  # again: the first stays
        await tx.kept.add([])
    async with store.begin() as tx:
        mine = request(one, 1)
        assert await tx.kept.get(one.id, mine.id) == mine
        assert await tx.kept.get(two.id, mine.id) is None
        assert not await tx.kept.describe(two.id, mine.id, {"a": "b"})
        assert await tx.kept.delete(two.id, id=mine.id) == 0
        assert [r.created_at for r in (await tx.kept.page(one.id, limit=10)).items] == [2, 1, 0]
        assert [r.id for r in (await tx.kept.page(two.id, limit=10)).items] == [request(two, 9).id]
        with pytest.raises(InvalidRequest):
            await tx.kept.page(two.id, after=mine.id, limit=10)
        assert await tx.kept.size(one.id) == (3, 30)
        assert await tx.kept.describe(one.id, mine.id, {"a": "b"})
        assert (await tx.kept.get(one.id, mine.id)).metadata == {"a": "b"}
        assert await tx.kept.delete(one.id) == 3
        assert await tx.kept.size(two.id) == (1, 10)


async def test_they_are_found_by_model_and_time(store, world):
    one = await world.project()
    base = {"model": "seedling", "adapter": None, "version": None, "name": "seedling"}
    async with store.begin() as tx:
        await tx.kept.add(
            [
                request(one, 1),
                request(one, 2, version="support@2", model="support@2"),
                request(one, 3, **base),
                request(one, 4),
            ]
        )
    async with store.read() as tx:

        async def found(model=None, since=None, until=None, limit=10):
            rows = await tx.kept.between(one.id, model=model, since=since, until=until, limit=limit)
            return [row.created_at for row in rows]

        assert await found() == [1, 2, 3, 4]
        assert await found("support") == [1, 2, 4]
        assert await found("support@2") == [2]
        assert await found("seedling") == [3]
        assert await found("ft:seedling:acme:support:x") == [1, 2, 4]
        assert await found(since=2, until=4) == [2, 3]
        assert await found(limit=2) == [3, 4]
        assert [r.created_at for r in (await tx.kept.page(one.id, model="support", limit=2)).items] == [4, 2]


async def test_what_expires_or_is_too_much_is_deleted(store, world):
    one, two = await world.project(), await world.project()
    async with store.begin() as tx:
        await tx.kept.add([request(one, n) for n in range(6)] + [request(one, 7, expires_at=1.0)])
        await tx.kept.add([request(two, 1)])
        assert await tx.kept.get(one.id, request(one, 7).id) is None
        assert await tx.kept.expire() == 1 and await tx.kept.expire() == 0
        assert await tx.kept.trim(one.id, 100, 10_000) == 0
        assert await tx.kept.trim(one.id, 4, 10_000) == 2
        assert await tx.kept.trim(one.id, 100, 25) == 2
        assert [r.created_at for r in (await tx.kept.page(one.id, limit=10)).items] == [5, 4]
        assert await tx.kept.size(two.id) == (1, 10)
        assert await tx.kept.delete(one.id, model="support", before=5.0) == 1
