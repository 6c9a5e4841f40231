"""Organizations and projects."""

from __future__ import annotations

from graftwork.core import ids
from graftwork.core.clock import Clock
from graftwork.core.errors import NotFound
from graftwork.core.nouns import Organization, Project
from graftwork.store import Store


class ProjectsService:
    """The tenant and its sub-accounts."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def first(self, organization: str, project: str) -> tuple[Project, bool]:
        """The oldest project, and whether it was made just now: on an empty store both are created."""
        async with self._store.begin() as tx:
            existing = await tx.projects.list()
            if existing:
                return min(existing, key=lambda p: (p.created_at, p.id)), False
            now = self._clock.now()
            owner = Organization(id=ids.new_id(ids.ORGANIZATION), name=organization, created_at=now)
            made = Project(id=ids.new_id(ids.PROJECT), organization_id=owner.id, name=project, created_at=now)
            await tx.organizations.create(owner)
            await tx.projects.create(made)
        return made, True

    async def get(self, project_id: str) -> Project:
        """One project.

        Raises:
            NotFound: there is none.
        """
        async with self._store.read() as tx:
            project = await tx.projects.get(project_id)
        if project is None:
            raise NotFound(f"No such project: {project_id!r}.", code="project_not_found")
        return project

    async def organization(self, project_id: str) -> Organization:
        """The organization that a project belongs to.

        Raises:
            NotFound: there is no such project.
        """
        project = await self.get(project_id)
        async with self._store.read() as tx:
            organization = await tx.organizations.get(project.organization_id)
        if organization is None:
            raise NotFound(f"No such organization: {project.organization_id!r}.", code="project_not_found")
        return organization
