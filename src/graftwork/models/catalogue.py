"""The base models a job may name, and what is known of each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from graftwork.core.errors import NotFound
from graftwork.core.specs import BaseRef
from graftwork.models.cache import Hub, cached_commit, locate
from graftwork.models.entry import CatalogueEntry, Prices
from graftwork.models.folder import SEEDLING, describe, refuse_unserved, revision_of, seedling_folder
from graftwork.models.known import KNOWN, known_entry
from graftwork.models.rates import SEEDLING_RATE

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@lru_cache(maxsize=1)
def seedling() -> CatalogueEntry:
    """The entry of the built-in base model."""
    folder = seedling_folder()
    entry = known_entry(SEEDLING, revision_of(folder), describe(folder), "same as graftwork")
    return replace(
        entry,
        source="builtin",
        lora_learning_rate=SEEDLING_RATE,
        rate_reason="the built-in model's own rate, tried on the example data",
        prices=Prices(train=100_000, input=20_000, output=40_000),
    )


class Catalogue:
    """The base models of one installation.

    Built-in and known hub models may always be named. ``allow`` opens more: shell patterns of hub ids
    (``Qwen/*``) and of absolute folder paths (``/srv/models/*``); ``*`` opens all, which is right for one's
    own machine only.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        cache: Path | None = None,
        prices: dict[str, Prices] | None = None,
        hub: Hub | None = None,
    ) -> None:
        """``cache`` is the folder downloads go to; ``prices`` replaces list prices by model name."""
        self._hub = hub
        self._allow = tuple(allow)
        self._cache = cache
        self._prices = dict(prices or {})

    def get(self, name: str) -> CatalogueEntry:
        """The entry of a base model.

        A hub model that is in the cache comes pinned to its commit. An allowed hub model that is not known is
        fetched to learn its shape (blocks; see ``pin`` for the errors).

        Raises:
            NotFound: unknown, or not allowed here (``model_not_found``).
            InvalidRequest: a model that is no usable base model, or that no engine here serves
                (``model_unsupported``).
        """
        entry = self._find(name)
        return replace(entry, prices=self._prices.get(entry.name, entry.prices))

    def list(self) -> tuple[CatalogueEntry, ...]:
        """Every model that needs no download to be described, the built-in one first."""
        return tuple(self.get(name) for name in (SEEDLING, *(entry.name for entry in KNOWN)))

    def _find(self, name: str) -> CatalogueEntry:
        if name == SEEDLING:
            return seedling()
        known = next((entry for entry in KNOWN if entry.name == name), None)
        if known is not None:
            commit = cached_commit(known.repository, self._cache) if self._cache else None
            return replace(known, revision=commit) if commit else known
        if name.startswith("/"):
            path = Path(name).resolve()  # before it is compared: ``..`` must not lead out of what is allowed
            if self._allowed(str(path)) and path.is_dir():
                refuse_unserved(path)
                return known_entry(str(path), revision_of(path), describe(path), "unknown")
        elif self._cache is not None and _HUB_ID.fullmatch(name) and self._allowed(name):
            return self._from_hub(name, self._cache)
        raise NotFound(
            f"The base model {name!r} does not exist, or may not be used here.",
            fix=f"Use one of: {', '.join([SEEDLING, *(entry.name for entry in KNOWN)])}; "
            "or have the operator allow this hub id or folder path.",
            code="model_not_found",
            param="model",
        )

    def _allowed(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._allow)

    def _from_hub(self, name: str, cache: Path) -> CatalogueEntry:
        asked = BaseRef(name=name, repository=name, revision=cached_commit(name, cache) or "main")
        folder = locate(asked, cache, self._hub)
        refuse_unserved(folder)
        return known_entry(name, folder.name, describe(folder), "see the hub")


def base_ref(entry: CatalogueEntry) -> BaseRef:
    """The pinned reference a run carries."""
    return BaseRef(name=entry.name, repository=entry.repository, revision=entry.revision)
