"""Where a base model's files lie on this machine; downloads from the Hub, pinned to a commit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from graftwork.core.errors import InvalidRequest, NotFound
from graftwork.core.specs import BaseRef
from graftwork.models.entry import CatalogueEntry
from graftwork.models.folder import (
    SEEDLING,
    WANTED,
    describe,
    missing_weights,
    refuse_code,
    revision_of,
    seedling_folder,
)

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Hub(Protocol):
    """What we need of a model hub."""

    def resolve(self, repository: str, revision: str) -> tuple[str, list[str]]:
        """The commit a revision stands for, and the names of its files; or ``OSError``."""
        ...

    def download(self, repository: str, commit: str, patterns: tuple[str, ...], cache: Path) -> Path:
        """The folder that holds the matching files of a commit, fetched if need be; raises as ``resolve``."""
        ...


class HuggingFaceHub:
    """The Hugging Face Hub, through ``huggingface_hub`` (extra ``[hub]``), with its cache layout.

    ``endpoint`` is the address of a mirror; None takes the library's own settings (``HF_ENDPOINT``).
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def resolve(self, repository: str, revision: str) -> tuple[str, list[str]]:
        """See ``Hub.resolve``."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        # Its transport's errors come through as they are; the transport (httpx, httpx2) depends on the
        # version.
        transport_error = cast("type[Exception]", HfHubHTTPError.__mro__[1])
        try:
            info = HfApi(endpoint=self._endpoint).model_info(repository, revision=revision, timeout=30)
        except transport_error as error:
            raise OSError(str(error)) from error
        return str(info.sha), [file.rfilename for file in info.siblings or []]

    def download(self, repository: str, commit: str, patterns: tuple[str, ...], cache: Path) -> Path:
        """See ``Hub.download``."""
        from huggingface_hub import snapshot_download

        found = snapshot_download(
            repository,
            revision=commit,
            cache_dir=cache,
            allow_patterns=list(patterns),
            endpoint=self._endpoint,
        )
        return Path(found)


def locate(base: CatalogueEntry | BaseRef, cache: Path, hub: Hub | None = None) -> Path:
    """The folder with ``config.json``, ``tokenizer.json`` and the weights of a base model.

    Downloads into ``cache`` (blocks, possibly for long) only for hub models that are not there yet. A local
    folder must still be the one that was pinned.

    Raises:
        InvalidRequest: the folder changed since it was pinned (``base_changed``), brings code or lacks files;
            the hub cannot be reached (``model_unreachable``).
        NotFound: the folder or the hub model does not exist.
    """
    if base.repository == SEEDLING:
        return seedling_folder()
    path = Path(base.repository)
    if not path.is_absolute():
        return _fetch(base.repository, base.revision, cache, hub)
    if not path.is_dir():
        raise NotFound(
            f"The base model's folder {path} does not exist on this machine.",
            fix="Put the folder back, or train on another base model.",
            code="model_not_found",
            param="model",
        )
    describe(path)
    if revision_of(path) != base.revision:
        raise InvalidRequest(
            f"The files in {path} are not those the base model was pinned to.",
            fix="Restore the folder's files, or start a new job on the changed model.",
            code="base_changed",
            param="model",
        )
    return path


def pin(entry: CatalogueEntry, cache: Path, hub: Hub | None = None) -> CatalogueEntry:
    """The entry with the commit its revision stands for now, and the shape of its real config.

    Downloads a hub model (blocks); other entries are pinned already. Raises as ``locate``.
    """
    if entry.source != "hub" or _COMMIT.fullmatch(entry.revision):
        return entry
    folder = _fetch(entry.repository, entry.revision, cache, hub)
    return replace(entry, revision=folder.name, shape=describe(folder))


def cached_commit(repository: str, cache: Path) -> str | None:
    """The commit of ``main`` of a hub model that was downloaded before; None if it was not. No network."""
    ref = cache / f"models--{repository.replace('/', '--')}" / "refs" / "main"
    try:
        commit = ref.read_text().strip()
    except OSError:
        return None
    return commit if _COMMIT.fullmatch(commit) and _snapshot(repository, commit, cache) else None


def _snapshot(repository: str, commit: str, cache: Path) -> Path | None:
    """The complete snapshot of a commit in the cache, or None."""
    folder = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / commit
    whole = (folder / "config.json").is_file() and (folder / ".complete").is_file()
    return folder if whole else None


def _kept(repository: str, revision: str, cache: Path) -> Path | None:
    """A whole snapshot that was put into the cache by hand, for when the hub cannot be reached."""
    base = cache / f"models--{repository.replace('/', '--')}"
    ref = base / "refs" / revision
    commit = ref.read_text().strip() if ref.is_file() else revision
    folder = base / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not (folder / "tokenizer.json").is_file():
        return None
    return None if missing_weights(folder) else folder


def _fetch(repository: str, revision: str, cache: Path, hub: Hub | None) -> Path:
    if _COMMIT.fullmatch(revision):
        folder = _snapshot(repository, revision, cache)
        if folder is not None:
            return folder
    hub = hub or HuggingFaceHub()
    try:
        commit, names = hub.resolve(repository, revision)
        refuse_code(repository, names)
        folder = hub.download(repository, commit, WANTED, cache)
    except ImportError as error:
        raise InvalidRequest(
            f"Fetching {repository} needs the huggingface_hub package, which is not installed.",
            fix="Install graftwork[hub], or download the model elsewhere and give its folder's path.",
            code="model_unreachable",
            param="model",
        ) from error
    except (OSError, ValueError) as error:
        kept = _kept(repository, revision, cache)
        if kept is not None:
            return kept
        raise InvalidRequest(
            f"The base model {repository} at {revision} cannot be fetched: {_first_line(error)}",
            fix="Check its name and this machine's network; or download it elsewhere "
            "and give the folder's absolute path as the model.",
            code="model_unreachable",
            param="model",
        ) from error
    describe(folder)
    (folder / ".complete").touch()
    refs = folder.parent.parent / "refs"
    refs.mkdir(parents=True, exist_ok=True)
    if revision == "main":
        (refs / "main").write_text(commit)
    return folder


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
