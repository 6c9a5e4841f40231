"""All tables. A column is a field of a noun under the same name, or the store's own business.

Every tenant table carries ``project_id``. Rows are never deleted: things are marked deleted, revoked, gone or
void.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from graftwork.core.states import (
    EntryState,
    ExportState,
    MachineState,
    Outcome,
    Phase,
    PlacementState,
    Verdict,
    Want,
)
from graftwork.store.types import CleanText, EnumText, JsonText, TupleText

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _key(name: str, references: str | None = None) -> Column[Any]:
    if references:
        return Column(name, Text, ForeignKey(references), primary_key=True)
    return Column(name, Text, primary_key=True)


def _text(name: str, references: str | None = None, *, null: bool = False) -> Column[Any]:
    if references:
        return Column(name, Text, ForeignKey(references), nullable=null)
    return Column(name, CleanText, nullable=null)


def _integer(name: str, *, null: bool = False) -> Column[Any]:
    return Column(name, BigInteger, nullable=null)


def _time(name: str, *, null: bool = False) -> Column[Any]:
    return Column(name, Double, nullable=null)


def _json(name: str, *, null: bool = False) -> Column[Any]:
    return Column(name, JsonText, nullable=null)


def _state(name: str, states: type[StrEnum], *, null: bool = False) -> Column[Any]:
    return Column(name, EnumText(states), nullable=null)


def _lease() -> list[Column[Any]]:
    """What makes a table claimable (``store.claims``)."""
    return [
        _time("next_at"),
        _text("lease_owner", null=True),
        _text("lease_token", null=True),
        _time("lease_until", null=True),
    ]


organizations = Table("organizations", metadata, _key("id"), _text("name"), _time("created_at"))

projects = Table(
    "projects",
    metadata,
    _key("id"),
    _text("organization_id", "organizations.id"),
    _text("name"),
    _time("created_at"),
    _integer("budget", null=True),
)

api_keys = Table(
    "api_keys",
    metadata,
    _key("id"),
    _text("project_id", "projects.id"),
    _text("name"),
    _text("lookup"),
    _text("digest"),
    _time("created_at"),
    _time("expires_at", null=True),
    _time("revoked_at", null=True),
    _time("last_used_at", null=True),
    UniqueConstraint("lookup"),
    Index(None, "project_id"),
)

files = Table(
    "files",
    metadata,
    _key("id"),
    _text("project_id", "projects.id"),
    _text("filename"),
    _text("purpose"),
    _integer("bytes"),
    _text("sha256"),
    _time("created_at"),
    _time("expires_at", null=True),
    _time("deleted_at", null=True),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "sha256"),
)

jobs = Table(
    "jobs",
    metadata,
    _key("id"),
    _text("project_id", "projects.id"),
    _state("phase", Phase),
    _state("want", Want),
    _text("base"),
    _text("suffix", null=True),
    _integer("seed"),
    _text("training_file"),
    _text("validation_file", null=True),
    _json("asked"),
    _json("metadata", null=True),
    _json("integrations", null=True),
    _time("created_at"),
    _json("plan", null=True),
    _json("error", null=True),
    _integer("fence"),
    _integer("losses"),
    _integer("progress"),
    _time("started_at", null=True),
    _time("finished_at", null=True),
    _time("estimated_finish", null=True),
    _integer("trained_tokens", null=True),
    _text("fine_tuned_model", null=True),
    _text("version_id", null=True),
    Column("result_files", TupleText, nullable=False),
    # Not in the noun: the event counter, and what makes creation idempotent.
    _integer("events"),
    _text("idempotency_key", null=True),
    _text("body_hash", null=True),
    *_lease(),
    UniqueConstraint("project_id", "idempotency_key"),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "phase", "next_at"),
)

sweeps = Table(
    "sweeps",
    metadata,
    _key("id"),
    _text("project_id", "projects.id"),
    _text("state"),
    _state("want", Want),
    _json("request"),
    _json("trials"),
    _time("created_at"),
    _integer("rung"),
    _text("best", null=True),
    _text("message", null=True),
    _time("finished_at", null=True),
    *_lease(),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "state", "next_at"),
)

job_events = Table(
    "job_events",
    metadata,
    _key("id"),
    _text("job_id", "jobs.id"),
    _integer("seq"),
    _time("created_at"),
    _text("level"),
    _text("type"),
    _text("message"),
    _json("data", null=True),
    _text("dedupe", null=True),
    UniqueConstraint("job_id", "seq"),
    UniqueConstraint("job_id", "dedupe"),
)

runs = Table(
    "runs",
    metadata,
    _key("job_id", "jobs.id"),
    Column("fence", BigInteger, primary_key=True, autoincrement=False),
    _text("uri"),
    _text("machine"),
    _time("created_at"),
    _integer("cursor"),
    _state("outcome", Outcome, null=True),
    _time("ended_at", null=True),
    _time("off_at", null=True),
    _text("bumped", null=True),
    Index(None, "machine"),
)

machines = Table(
    "machines",
    metadata,
    _key("name"),
    _text("job_id", "jobs.id"),
    _integer("fence"),
    _text("provider"),
    _state("state", MachineState),
    _integer("price_per_hour"),
    _time("deadline"),
    _time("created_at"),
    _time("launched_at", null=True),
    _time("gone_at", null=True),
    Column("shared", Boolean, nullable=False),
    _time("closed_at", null=True),
    _integer("memory"),
    _integer("cores"),
    _integer("gpus"),
    _text("gpu", null=True),
    Index(None, "job_id", "fence"),
    Index(None, "state"),
)

weights = Table(
    "weights",
    metadata,
    _key("digest"),
    _text("project_id", "projects.id"),
    _text("base"),
    _json("files"),
    _json("probes"),
    _time("created_at"),
    _integer("rank"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _key("id"),
    _text("job_id", "jobs.id"),
    _integer("fence"),
    _integer("step"),
    _time("created_at"),
    _json("metrics"),
    _text("weights", "weights.digest", null=True),
    UniqueConstraint("job_id", "step"),
)

adapters = Table(
    "adapters",
    metadata,
    _key("id"),
    _text("project_id", "projects.id"),
    _text("name"),
    _text("base"),
    _time("created_at"),
    UniqueConstraint("project_id", "name"),
)

versions = Table(
    "versions",
    metadata,
    _key("id"),
    _text("project_id", "projects.id"),
    _text("adapter_id", "adapters.id"),
    _integer("number"),
    _text("job_id", "jobs.id"),
    _text("weights", "weights.digest"),
    _text("model"),
    _json("manifest"),
    _state("verdict", Verdict),
    _time("created_at"),
    _time("deleted_at", null=True),
    UniqueConstraint("adapter_id", "number"),
    UniqueConstraint("adapter_id", "id"),
    UniqueConstraint("model"),
    UniqueConstraint("job_id"),
)

aliases = Table(
    "aliases",
    metadata,
    _key("adapter_id", "adapters.id"),
    _key("name"),
    _text("version_id"),
    _integer("generation"),
    _time("updated_at"),
    # With the adapter in the key an alias cannot point into another adapter, and never at nothing.
    ForeignKeyConstraint(["adapter_id", "version_id"], ["versions.adapter_id", "versions.id"]),
    Index(None, "version_id"),
)

alias_moves = Table(
    "alias_moves",
    metadata,
    _key("adapter_id", "adapters.id"),
    _key("name"),
    Column("generation", BigInteger, primary_key=True, autoincrement=False),
    _text("from_version", null=True),
    _text("to_version"),
    _text("actor"),
    _text("reason"),
    _time("at"),
)

evaluations = Table(
    "evaluations",
    metadata,
    _key("id"),
    _text("project_id", "projects.id"),
    _text("job_id", "jobs.id"),
    _text("weights", "weights.digest"),
    _state("verdict", Verdict),
    _json("report"),
    _time("created_at"),
    Index(None, "job_id"),
    Index(None, "weights"),
)

exports = Table(
    "exports",
    metadata,
    _key("id"),
    _text("project_id", "projects.id"),
    _text("version_id", "versions.id"),
    _text("format"),
    _text("quant"),
    Column("with_base", Boolean, nullable=False),
    _text("repository", null=True),
    Column("private", Boolean, nullable=False),
    _state("state", ExportState),
    _time("created_at"),
    _json("files", null=True),
    _text("url", null=True),
    _json("error", null=True),
    _time("finished_at", null=True),
    *_lease(),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "state", "next_at"),
)

mirrors = Table(
    "mirrors",
    metadata,
    _key("id"),
    _text("job_id", "jobs.id"),
    _text("tracker"),
    _time("created_at"),
    _integer("fence"),
    _integer("cursor"),
    _integer("step"),
    _text("remote", null=True),
    Column("done", Boolean, nullable=False),
    *_lease(),
    UniqueConstraint("job_id", "tracker"),
    Index(None, "done", "next_at"),
)

endpoints = Table(
    "endpoints",
    metadata,
    _key("id"),
    _text("base"),
    _text("engine"),
    _time("created_at"),
    _text("state"),
    _text("url", null=True),
    _text("token", null=True),
    _integer("generation"),
    _text("message", null=True),
    UniqueConstraint("base"),
)

placements = Table(
    "placements",
    metadata,
    _key("id"),
    _text("endpoint_id", "endpoints.id"),
    _text("project_id", "projects.id"),
    _text("weights", "weights.digest"),
    _state("state", PlacementState),
    _integer("generation"),
    _time("created_at"),
    Column("wanted", Boolean, nullable=False),
    _text("reason", null=True),
    _json("probe", null=True),
    _time("ready_at", null=True),
    *_lease(),
    UniqueConstraint("endpoint_id", "weights"),
    Index(None, "weights"),
    Index(None, "next_at"),
)

ledger = Table(
    "ledger",
    metadata,
    _key("key"),
    _text("project_id", "projects.id"),
    _text("kind"),
    _state("state", EntryState),
    _integer("amount"),
    _json("quantity"),
    _text("price_version"),
    _json("refs"),
    _time("created_at"),
    _time("settled_at", null=True),
    # Not in the noun: copies out of ``refs``, by which bills group and jobs find what they cost.
    _text("model", null=True),
    _text("base", null=True),
    _text("job_id", null=True),
    Index(None, "job_id"),
    Index(None, "project_id", "created_at", "key"),
    Index(None, "project_id", "settled_at"),
    Index(None, "state", "created_at"),
)

balances = Table(
    "balances",
    metadata,
    _key("project_id", "projects.id"),
    # Settled and open amounts together, kept in the transaction that writes the ledger.
    _integer("spent"),
)

keeping = Table(
    "keeping",
    metadata,
    _key("project_id", "projects.id"),
    _text("mode"),
    _integer("days"),
    Column("redact", Boolean, nullable=False),
)

kept = Table(
    "kept",
    metadata,
    _key("id"),
    _text("project_id", "projects.id"),
    _text("model", null=True),
    _text("base", null=True),
    _text("adapter", null=True),
    _text("version", null=True),
    _text("name", null=True),
    _json("metadata", null=True),
    _integer("bytes"),
    # zlib-compressed JSON of request and answer
    Column("body", LargeBinary, nullable=False),
    _time("created_at"),
    _time("expires_at"),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "expires_at"),
)
"""The one table whose rows are deleted: what a tenant had kept must be gone when it says so."""

prices = Table("prices", metadata, _key("version"), _json("book"), _time("created_at"))

settings = Table("settings", metadata, _key("key"), _json("value"))

generation = Table(
    "generation",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    _integer("value"),
)
