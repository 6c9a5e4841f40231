"""Projects: the tenants' sub-accounts."""

from __future__ import annotations

from graftwork.core.nouns import Project
from graftwork.store.session import Items, Repository
from graftwork.store.tables import projects


class Projects(Repository):
    """Sub-accounts with a budget."""

    async def create(self, project: Project) -> None:
        """Add a project."""
        await self._insert(projects, project)
        self._touch()

    async def get(self, id: str) -> Project | None:
        """The project, if there is one of this id."""
        return await self._one(Project, projects, projects.c.id == id)

    async def list(self) -> Items[Project]:
        """All projects, oldest first."""
        return await self._all(Project, projects, order=[projects.c.created_at, projects.c.id])

    async def set_budget(self, id: str, budget: int | None) -> bool:
        """Set or lift (None) the spending cap, in micro-dollars; False if there is no such project."""
        self._touch()
        return await self._change(projects, projects.c.id == id, budget=budget)
