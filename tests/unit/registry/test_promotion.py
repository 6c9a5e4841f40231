"""Registering, naming, promoting and rolling back versions."""

import pytest

from graftwork.core.errors import Conflict, InvalidRequest, NotFound
from graftwork.core.states import Verdict
from graftwork.registry import (
    Reference,
    check_alias,
    check_name,
    parse_reference,
    promote,
    register,
    resolve,
    rollback,
    version_id,
)
from graftwork.store import Store

FILES = {"adapter_config.json": "a" * 64, "adapter_model.safetensors": "b" * 64}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("support", Reference("support")),
        ("support@production", Reference("support", alias="production")),
        ("support@3", Reference("support", number=3)),
        ("s_1-x@beta-2", Reference("s_1-x", alias="beta-2")),
        ("support@", None),
        ("@3", None),
        ("support@3@4", None),
        ("support@-3", None),
        ("support@³", None),
        ("support@99999999999", None),
        ("Support", None),
        ("ft:seedling:org:support:abc", None),
        ("", None),
    ],
)
def test_references(text: str, expected: Reference | None):
    assert parse_reference(text) == expected
    if expected is not None:
        assert parse_reference(str(expected)) == expected


def test_names():
    assert check_name("support-2", param="suffix") == "support-2"
    assert check_name("7", param="suffix") == "7"
    assert check_alias("beta") == "beta"
    for bad in ("", "a b", "-a", "A", "x" * 65, "ü"):
        with pytest.raises(InvalidRequest) as caught:
            check_name(bad, param="suffix")
        assert (caught.value.code, caught.value.param) == ("invalid_name", "suffix")
    with pytest.raises(InvalidRequest, match="cannot be a number"):
        check_alias("7")


async def test_a_job_registers_once(store: Store, world, new_receipt):
    project = await world.project()
    job, weights = await world.job(project.id), await world.weights(project.id)
    receipt = new_receipt(job_id=job.id, verdict=Verdict.INCONCLUSIVE)

    async def once(**changes):
        given = {"adapter": "support", "model": "ft:x", "files": FILES, "receipt": receipt}
        async with store.begin() as tx:
            return await register(tx, project_id=project.id, weights=weights.digest, **{**given, **changes})

    version = await once()
    assert (version.number, version.job_id, version.verdict) == (1, job.id, Verdict.INCONCLUSIVE)
    assert version.id == version_id(version.manifest)
    # Tried again by whoever takes over, a little later: the first one counts.
    assert await once(receipt=receipt.model_copy(update={"created_at": 2000.0})) == version
    with pytest.raises(InvalidRequest):
        await once(adapter="No Name")
    with pytest.raises(Conflict):
        await once(receipt=new_receipt(job_id=job.id, base=receipt.base.model_copy(update={"name": "other"})))


async def test_names_resolve_within_the_project_only(store: Store, world):
    project, other = await world.project(), await world.project()
    adapter = await world.adapter(project.id)
    one, two = await world.version(adapter), await world.version(adapter)
    async with store.begin() as tx:
        await promote(tx, project.id, adapter, one, actor="me", at=1.0)
        await promote(tx, project.id, adapter, two, alias="beta", actor="me", at=1.0)
    async with store.read() as tx:
        for text, version in (
            ("support", one),
            ("support@production", one),
            ("support@beta", two),
            ("support@2", two),
            (one.model, one),
            (two.id, two),
        ):
            assert await resolve(tx, project.id, text) == version
            with pytest.raises(NotFound):
                await resolve(tx, other.id, text)
        for text, code in (
            ("support@9", "version_not_found"),
            ("support@gamma", "version_not_found"),
            ("nobody", "adapter_not_found"),
            ("a b", "version_not_found"),
        ):
            with pytest.raises(NotFound) as caught:
                await resolve(tx, project.id, text)
            assert caught.value.code == code
    async with store.begin() as tx:
        three = (await tx.versions.by_number(adapter.id, 2)).id
        await promote(tx, project.id, adapter, one, alias="beta", actor="me", at=2.0)
        await tx.versions.mark_deleted(project.id, three, 3.0)
        for text in ("support@2", two.model, two.id):
            with pytest.raises(NotFound):
                await resolve(tx, project.id, text)


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.INCONCLUSIVE])
async def test_only_a_pass_promotes_unless_forced_with_a_reason(store: Store, world, verdict: Verdict):
    project = await world.project()
    adapter = await world.adapter(project.id)
    version = await world.version(adapter, verdict=verdict)
    async with store.begin() as tx:
        with pytest.raises(Conflict) as caught:
            await promote(tx, project.id, adapter, version, actor="me", reason="please", at=1.0)
        assert caught.value.code == "gate_refused"
        with pytest.raises(InvalidRequest) as lacking:
            await promote(tx, project.id, adapter, version, actor="me", reason=" ", at=1.0, force=True)
        assert lacking.value.param == "reason"
        assert await tx.aliases.get(adapter.id, "production") is None
        await promote(tx, project.id, adapter, version, actor="me", reason="demo", at=1.0, force=True)
        [move] = await tx.aliases.moves(adapter.id, "production")
    assert move.reason == f"forced past the gate ({verdict}): demo"


async def test_promoting_what_is_live_changes_nothing(store: Store, world):
    project = await world.project()
    adapter = await world.adapter(project.id)
    one, two = await world.version(adapter), await world.version(adapter)
    stranger = await world.version(await world.adapter(project.id, "other"))
    async with store.begin() as tx:
        made = await promote(tx, project.id, adapter, one, expected_generation=0, actor="me", at=1.0)
        assert await promote(tx, project.id, adapter, one, actor="me", at=2.0) == made
        assert await promote(tx, project.id, adapter, one, expected_generation=1, actor="me", at=2.0) == made
        for version, expected in ((one, 0), (two, 0), (two, 2)):
            with pytest.raises(Conflict, match="moved by somebody else"):
                await promote(
                    tx, project.id, adapter, version, expected_generation=expected, actor="me", at=2.0
                )
        assert len(await tx.aliases.moves(adapter.id, "production")) == 1
        for project_id, version in ((project.id, stranger), ("proj_other", one)):
            with pytest.raises(NotFound):
                await promote(tx, project_id, adapter, version, actor="me", at=2.0)


async def test_rollback_goes_back_step_by_step_past_deleted_versions(store: Store, world):
    project = await world.project()
    adapter = await world.adapter(project.id)
    versions = [await world.version(adapter) for _ in range(5)]
    number = {version.id: version.number for version in versions}

    async def act(tx, step: str) -> int:
        if step == "back":
            alias = await rollback(tx, project.id, adapter, actor="me", at=1.0)
        else:
            alias = await promote(tx, project.id, adapter, versions[int(step) - 1], actor="me", at=1.0)
        return number[alias.version_id]

    async with store.begin() as tx:
        with pytest.raises(NotFound) as missing:
            await act(tx, "back")
        assert missing.value.code == "alias_not_found"
        live = [await act(tx, step) for step in ("1", "2", "3", "back", "4", "back", "back")]
        assert live == [1, 2, 3, 2, 4, 2, 1]  # never to 3, which was rolled back itself
        with pytest.raises(Conflict) as nothing:
            await act(tx, "back")
        assert nothing.value.code == "nothing_to_roll_back"
        assert [await act(tx, step) for step in ("2", "4", "5")] == [2, 4, 5]
        await tx.versions.mark_deleted(project.id, versions[3].id, 2.0)
        assert await act(tx, "back") == 2
        with pytest.raises(Conflict, match="moved by somebody else"):
            await rollback(tx, project.id, adapter, expected_generation=3, actor="me", at=1.0)
