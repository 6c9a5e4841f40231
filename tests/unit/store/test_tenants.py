"""Organizations, projects, keys and files, and that projects do not see each other."""

import pytest

from graftwork.core.errors import InvalidRequest
from graftwork.core.nouns import ApiKey, StoredFile
from graftwork.store import Store


def a_key(project_id: str, number: int, **fields) -> ApiKey:
    given = {
        "id": f"key_{number}",
        "project_id": project_id,
        "name": "k",
        "lookup": f"look{number}",
        "digest": "d",
    }
    return ApiKey(**{**given, "created_at": float(number), **fields})


def a_file(project_id: str, number: int, **fields) -> StoredFile:
    given = {"id": f"file-{number}", "project_id": project_id, "filename": "a.jsonl", "purpose": "fine-tune"}
    return StoredFile(
        **{**given, "bytes": 3, "sha256": f"{number:064x}", "created_at": float(number), **fields}
    )


async def test_projects_belong_to_organizations(store: Store, world):
    one, two = await world.project(), await world.project(budget=5_000_000)
    async with store.begin() as tx:
        assert await tx.projects.list() == [one, two]
        assert (await tx.organizations.get(one.organization_id)).name == "acme1"
        assert [o.id for o in await tx.organizations.list()] == [one.organization_id, two.organization_id]
        assert await tx.projects.set_budget(one.id, 7)
        assert not await tx.projects.set_budget("proj_none", 7)
        assert (await tx.projects.get(one.id)).budget == 7
        assert await tx.projects.get("proj_none") is None


async def test_keys_live_until_revoked_or_expired(store: Store, world):
    one, two = await world.project(), await world.project()
    async with store.begin() as tx:
        for key in (a_key(one.id, 1), a_key(one.id, 2, expires_at=50.0), a_key(two.id, 3)):
            await tx.keys.create(key)
        assert not await tx.keys.revoke(two.id, "key_1", 70.0)  # not theirs
        assert await tx.keys.revoke(one.id, "key_1", 70.0)
        assert await tx.keys.revoke(one.id, "key_1", 80.0)
        assert (await tx.keys.find("look1")).revoked_at == 70.0
        assert [k.id for k in await tx.keys.list(one.id)] == ["key_1", "key_2"]
        await tx.keys.touch({"key_2", "key_3"}, 90.0)
        await tx.keys.touch({"key_2"}, 85.0)
        assert (await tx.keys.find("look2")).last_used_at == 90.0
        assert await tx.keys.find("nope") is None


async def test_a_file_is_gone_for_others_and_once_deleted_or_expired(store: Store, world):
    one, two = await world.project(), await world.project()
    async with store.begin() as tx:
        now = await tx.now()
        await tx.files.create(a_file(one.id, 1))
        await tx.files.create(a_file(one.id, 2, expires_at=now - 1))
        await tx.files.create(a_file(one.id, 3, expires_at=now + 1000))
        assert await tx.files.get(one.id, "file-1") == a_file(one.id, 1)
        assert await tx.files.get(two.id, "file-1") is None
        assert await tx.files.get(one.id, "file-2") is None
        assert await tx.files.get(one.id, "file-3") is not None
        assert not await tx.files.delete(two.id, "file-1", now)
        assert await tx.files.delete(one.id, "file-1", now)
        assert not await tx.files.delete(one.id, "file-1", now)
        assert await tx.files.get(one.id, "file-1") is None
        assert [f.id for f in (await tx.files.list(one.id, limit=10)).items] == ["file-3"]


async def test_pages_follow_each_other_without_gaps_even_if_rows_vanish(store: Store, world):
    project, other = await world.project(), await world.project()
    async with store.begin() as tx:
        for number in range(1, 8):
            # Equal times: the id decides, and nothing is lost between pages.
            await tx.files.create(a_file(project.id, number, created_at=float(number // 3)))
        await tx.files.create(a_file(project.id, 8, purpose="batch", created_at=9.0))
        await tx.files.create(a_file(other.id, 9))
        first = await tx.files.list(project.id, purpose="fine-tune", limit=3)
        assert ([f.id for f in first.items], first.has_more) == (["file-7", "file-6", "file-5"], True)
        await tx.files.delete(project.id, "file-5", 10.0)  # a cursor that was deleted meanwhile still works
        second = await tx.files.list(project.id, purpose="fine-tune", after="file-5", limit=4)
        assert ([f.id for f in second.items], second.has_more) == (
            ["file-4", "file-3", "file-2", "file-1"],
            False,
        )
        upward = await tx.files.list(project.id, order="asc", after="file-2", limit=2)
        assert ([f.id for f in upward.items], upward.has_more) == (["file-3", "file-4"], True)
        for cursor in ("file-9", "file-none"):
            with pytest.raises(InvalidRequest) as caught:
                await tx.files.list(project.id, after=cursor, limit=1)
            assert (caught.value.code, caught.value.param) == ("invalid_cursor", "after")


async def test_text_that_databases_refuse_is_cleaned(store: Store, world):
    project = await world.project()
    async with store.begin() as tx:
        await tx.files.create(a_file(project.id, 1, filename="a\x00b\ud800 ü 漢"))
        assert (await tx.files.get(project.id, "file-1")).filename == "ab? ü 漢"


async def test_an_error_rolls_everything_back(store: Store, world):
    project = await world.project()
    generation = await store.generation()
    with pytest.raises(RuntimeError):
        async with store.begin() as tx:
            await tx.keys.create(a_key(project.id, 1))
            raise RuntimeError
    async with store.read() as tx:
        assert await tx.keys.find("look1") is None
    assert await store.generation() == generation
