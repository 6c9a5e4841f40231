"""Registering versions, and finding them by the names that customers use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from graftwork.core.errors import InvalidRequest, NotFound
from graftwork.core.nouns import Adapter, Version
from graftwork.registry.receipts import Receipt, manifest, version_id
from graftwork.store import Tx

DEFAULT_ALIAS = "production"
"""The alias that a passing gate moves, and that an adapter's bare name means."""

_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A version as a customer names it: an adapter with a number or an alias."""

    adapter: str
    number: int | None = None
    alias: str = DEFAULT_ALIAS

    def __str__(self) -> str:
        return f"{self.adapter}@{self.alias if self.number is None else self.number}"


def parse_reference(text: str) -> Reference | None:
    """``support`` (its default alias), ``support@production`` or ``support@3``; else None."""
    adapter, at, which = text.partition("@")
    if not _NAME.fullmatch(adapter):
        return None
    if not at:
        return Reference(adapter)
    if which.isascii() and which.isdigit():
        return Reference(adapter, number=int(which)) if 0 < len(which) < 10 else None
    return Reference(adapter, alias=which) if _NAME.fullmatch(which) else None


def check_name(text: str, *, param: str) -> str:
    """``text``, if it can name an adapter.

    Raises:
        InvalidRequest: it cannot (code ``invalid_name``).
    """
    if _NAME.fullmatch(text):
        return text
    raise InvalidRequest(
        f"{text!r} cannot be a name.",
        code="invalid_name",
        param=param,
        fix="Use up to 64 lower-case letters, digits, - and _, not beginning with -.",
    )


def check_alias(text: str) -> str:
    """``text``, if it can name an alias: as an adapter's name, but not a number, which means a version.

    Raises:
        InvalidRequest: it cannot (code ``invalid_name``).
    """
    if text.isdigit():
        raise InvalidRequest(
            "An alias cannot be a number: that is how versions are named.",
            code="invalid_name",
            param="alias",
            fix="Use a word such as production.",
        )
    return check_name(text, param="alias")


async def register(
    tx: Tx,
    *,
    project_id: str,
    adapter: str,
    model: str,
    weights: str,
    files: Mapping[str, str],
    receipt: Receipt,
) -> Version:
    """Add the version that a job made to its adapter's line (made if need be). The same job registers once.

    Args:
        tx: a writing transaction.
        project_id: the owner.
        adapter: name of the adapter.
        model: the ``ft:…`` name of the version.
        weights: digest under which the files are stored as weights.
        files: file name to sha256.
        receipt: the lineage; its job, base model, verdict and time become the version's.

    Raises:
        Conflict: the adapter is on another base model (code ``adapter_on_other_base``).
        InvalidRequest: the name cannot be an adapter's (code ``invalid_name``).
    """
    name = check_name(adapter, param="suffix")
    line = await tx.adapters.ensure(project_id, name, receipt.base.name, receipt.created_at)
    document = manifest(files, receipt)
    return await tx.versions.create(
        Version(
            id=version_id(document),
            project_id=project_id,
            adapter_id=line.id,
            number=0,
            job_id=receipt.job_id,
            weights=weights,
            model=model,
            manifest=document,
            verdict=receipt.verdict,
            created_at=receipt.created_at,
        )
    )


async def find_adapter(tx: Tx, project_id: str, name: str) -> Adapter:
    """The project's adapter of this name.

    Raises:
        NotFound: there is none (code ``adapter_not_found``).
    """
    adapter = await tx.adapters.get_by_name(project_id, name)
    if adapter is None:
        raise NotFound(
            f"There is no adapter {name!r}.",
            code="adapter_not_found",
            fix="List the project's adapters to see their names.",
        )
    return adapter


async def resolve(tx: Tx, project_id: str, text: str) -> Version:
    """The live version meant by ``support``, ``support@beta``, ``support@3``, an ``ft:`` name or an id.

    Raises:
        NotFound: the project has no such version, or it was deleted (code ``version_not_found``), or no such
            adapter (``adapter_not_found``).
    """
    version = await tx.versions.by_model(project_id, text) or await tx.versions.get(project_id, text)
    reference = None if version is not None else parse_reference(text)
    if reference is not None:
        version = await _referred(tx, project_id, reference)
    if version is None or version.deleted_at is not None:
        raise NotFound(
            f"There is no version {text!r}.",
            code="version_not_found",
            fix="Show the adapter to see its versions and aliases.",
        )
    return version


async def _referred(tx: Tx, project_id: str, reference: Reference) -> Version | None:
    adapter = await find_adapter(tx, project_id, reference.adapter)
    if reference.number is not None:
        return await tx.versions.by_number(adapter.id, reference.number)
    alias = await tx.aliases.get(adapter.id, reference.alias)
    return None if alias is None else await tx.versions.get(project_id, alias.version_id)
