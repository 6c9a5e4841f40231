"""Organizations, projects, keys and files, and that projects do not see each other."""

from graftwork.core.nouns import Organization, Project
from graftwork.store import Store


async def test_open(store: Store):
    async with store.begin() as tx:
        now = await tx.now()
        await tx.organizations.create(Organization(id="org-1", name="o", created_at=now))
        await tx.projects.create(Project(id="proj_1", organization_id="org-1", name="p", created_at=now))
    async with store.read() as tx:
        snapshot = await tx.snapshot()
    assert snapshot.projects["proj_1"].organization == "o"
    assert snapshot.generation == await store.generation() == 2
