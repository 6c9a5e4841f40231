"""The first schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create all tables."""
    _tenants()
    _jobs()
    _attempts()
    _registry()
    _serving()
    _money()
    _install()
    op.execute("INSERT INTO generation (id, value) VALUES (1, 1)")


def downgrade() -> None:
    """Drop all tables."""
    for table in reversed(_TABLES):
        op.drop_table(table)


def _text(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=null)


def _integer(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=null, autoincrement=False)


def _real(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Double(), nullable=null)


def _primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"pk_{table}")


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=f"uq_{table}_{'_'.join(columns)}")


def _foreign(table: str, columns: list[str], target: str, targets: list[str]) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_{'_'.join(columns)}"
    return sa.ForeignKeyConstraint(columns, [f"{target}.{column}" for column in targets], name=name)


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))


def _tenants() -> None:
    op.create_table(
        "organizations",
        _text("id"),
        _text("name"),
        _real("created_at"),
        _primary("organizations", "id"),
    )
    op.create_table(
        "projects",
        _text("id"),
        _text("organization_id"),
        _text("name"),
        _real("created_at"),
        _integer("budget", null=True),
        _primary("projects", "id"),
        _foreign("projects", ["organization_id"], "organizations", ["id"]),
    )
    op.create_table(
        "api_keys",
        _text("id"),
        _text("project_id"),
        _text("name"),
        _text("lookup"),
        _text("digest"),
        _real("created_at"),
        _real("expires_at", null=True),
        _real("revoked_at", null=True),
        _real("last_used_at", null=True),
        _primary("api_keys", "id"),
        _foreign("api_keys", ["project_id"], "projects", ["id"]),
        _unique("api_keys", "lookup"),
    )
    _index("api_keys", "project_id")
    op.create_table(
        "files",
        _text("id"),
        _text("project_id"),
        _text("filename"),
        _text("purpose"),
        _integer("bytes"),
        _text("sha256"),
        _real("created_at"),
        _real("expires_at", null=True),
        _real("deleted_at", null=True),
        _primary("files", "id"),
        _foreign("files", ["project_id"], "projects", ["id"]),
    )
    _index("files", "project_id", "created_at", "id")
    _index("files", "sha256")


def _jobs() -> None:
    op.create_table(
        "jobs",
        _text("id"),
        _text("project_id"),
        _text("phase"),
        _text("want"),
        _text("base"),
        _text("suffix", null=True),
        _integer("seed"),
        _text("training_file"),
        _text("validation_file", null=True),
        _text("asked"),
        _text("metadata", null=True),
        _text("integrations", null=True),
        _real("created_at"),
        _text("plan", null=True),
        _text("error", null=True),
        _integer("fence"),
        _integer("losses"),
        _integer("progress"),
        _real("started_at", null=True),
        _real("finished_at", null=True),
        _real("estimated_finish", null=True),
        _integer("trained_tokens", null=True),
        _text("fine_tuned_model", null=True),
        _text("version_id", null=True),
        _text("result_files"),
        _integer("events"),
        _text("idempotency_key", null=True),
        _text("body_hash", null=True),
        _real("next_at"),
        _text("lease_owner", null=True),
        _text("lease_token", null=True),
        _real("lease_until", null=True),
        _primary("jobs", "id"),
        _foreign("jobs", ["project_id"], "projects", ["id"]),
        _unique("jobs", "project_id", "idempotency_key"),
    )
    _index("jobs", "phase", "next_at")
    _index("jobs", "project_id", "created_at", "id")


def _attempts() -> None:
    op.create_table(
        "job_events",
        _text("id"),
        _text("job_id"),
        _integer("seq"),
        _real("created_at"),
        _text("level"),
        _text("type"),
        _text("message"),
        _text("data", null=True),
        _text("dedupe", null=True),
        _primary("job_events", "id"),
        _foreign("job_events", ["job_id"], "jobs", ["id"]),
        _unique("job_events", "job_id", "dedupe"),
        _unique("job_events", "job_id", "seq"),
    )
    op.create_table(
        "runs",
        _text("job_id"),
        _integer("fence"),
        _text("uri"),
        _text("machine"),
        _real("created_at"),
        _integer("cursor"),
        _text("outcome", null=True),
        _real("ended_at", null=True),
        _primary("runs", "job_id", "fence"),
        _foreign("runs", ["job_id"], "jobs", ["id"]),
    )
    op.create_table(
        "machines",
        _text("name"),
        _text("job_id"),
        _integer("fence"),
        _text("provider"),
        _text("state"),
        _integer("price_per_hour"),
        _real("deadline"),
        _real("created_at"),
        _real("launched_at", null=True),
        _real("gone_at", null=True),
        _primary("machines", "name"),
        _foreign("machines", ["job_id"], "jobs", ["id"]),
    )
    _index("machines", "job_id", "fence")
    _index("machines", "state")
    op.create_table(
        "weights",
        _text("digest"),
        _text("project_id"),
        _text("base"),
        _text("files"),
        _text("probes"),
        _real("created_at"),
        _integer("rank"),
        _primary("weights", "digest"),
        _foreign("weights", ["project_id"], "projects", ["id"]),
    )
    op.create_table(
        "checkpoints",
        _text("id"),
        _text("job_id"),
        _integer("fence"),
        _integer("step"),
        _real("created_at"),
        _text("metrics"),
        _text("weights", null=True),
        _primary("checkpoints", "id"),
        _foreign("checkpoints", ["job_id"], "jobs", ["id"]),
        _foreign("checkpoints", ["weights"], "weights", ["digest"]),
        _unique("checkpoints", "job_id", "step"),
    )


def _registry() -> None:
    op.create_table(
        "adapters",
        _text("id"),
        _text("project_id"),
        _text("name"),
        _text("base"),
        _real("created_at"),
        _primary("adapters", "id"),
        _foreign("adapters", ["project_id"], "projects", ["id"]),
        _unique("adapters", "project_id", "name"),
    )
    op.create_table(
        "versions",
        _text("id"),
        _text("project_id"),
        _text("adapter_id"),
        _integer("number"),
        _text("job_id"),
        _text("weights"),
        _text("model"),
        _text("manifest"),
        _text("verdict"),
        _real("created_at"),
        _real("deleted_at", null=True),
        _primary("versions", "id"),
        _foreign("versions", ["adapter_id"], "adapters", ["id"]),
        _foreign("versions", ["job_id"], "jobs", ["id"]),
        _foreign("versions", ["project_id"], "projects", ["id"]),
        _foreign("versions", ["weights"], "weights", ["digest"]),
        _unique("versions", "adapter_id", "id"),
        _unique("versions", "adapter_id", "number"),
        _unique("versions", "job_id"),
        _unique("versions", "model"),
    )
    op.create_table(
        "aliases",
        _text("adapter_id"),
        _text("name"),
        _text("version_id"),
        _integer("generation"),
        _real("updated_at"),
        _primary("aliases", "adapter_id", "name"),
        _foreign("aliases", ["adapter_id"], "adapters", ["id"]),
        _foreign("aliases", ["adapter_id", "version_id"], "versions", ["adapter_id", "id"]),
    )
    _index("aliases", "version_id")
    op.create_table(
        "alias_moves",
        _text("adapter_id"),
        _text("name"),
        _integer("generation"),
        _text("from_version", null=True),
        _text("to_version"),
        _text("actor"),
        _text("reason"),
        _real("at"),
        _primary("alias_moves", "adapter_id", "name", "generation"),
        _foreign("alias_moves", ["adapter_id"], "adapters", ["id"]),
    )
    op.create_table(
        "evaluations",
        _text("id"),
        _text("project_id"),
        _text("job_id"),
        _text("weights"),
        _text("verdict"),
        _text("report"),
        _real("created_at"),
        _primary("evaluations", "id"),
        _foreign("evaluations", ["job_id"], "jobs", ["id"]),
        _foreign("evaluations", ["project_id"], "projects", ["id"]),
        _foreign("evaluations", ["weights"], "weights", ["digest"]),
    )
    _index("evaluations", "job_id")
    _index("evaluations", "weights")


def _serving() -> None:
    op.create_table(
        "endpoints",
        _text("id"),
        _text("base"),
        _text("engine"),
        _real("created_at"),
        _text("state"),
        _text("url", null=True),
        _text("token", null=True),
        _integer("generation"),
        _text("message", null=True),
        _primary("endpoints", "id"),
        _unique("endpoints", "base"),
    )
    op.create_table(
        "placements",
        _text("id"),
        _text("endpoint_id"),
        _text("project_id"),
        _text("weights"),
        _text("state"),
        _integer("generation"),
        _real("created_at"),
        sa.Column("wanted", sa.Boolean(), nullable=False),
        _text("reason", null=True),
        _text("probe", null=True),
        _real("ready_at", null=True),
        _real("next_at"),
        _text("lease_owner", null=True),
        _text("lease_token", null=True),
        _real("lease_until", null=True),
        _primary("placements", "id"),
        _foreign("placements", ["endpoint_id"], "endpoints", ["id"]),
        _foreign("placements", ["project_id"], "projects", ["id"]),
        _foreign("placements", ["weights"], "weights", ["digest"]),
        _unique("placements", "endpoint_id", "weights"),
    )
    _index("placements", "next_at")
    _index("placements", "weights")


def _money() -> None:
    op.create_table(
        "ledger",
        _text("key"),
        _text("project_id"),
        _text("kind"),
        _text("state"),
        _integer("amount"),
        _text("quantity"),
        _text("price_version"),
        _text("refs"),
        _real("created_at"),
        _real("settled_at", null=True),
        _text("model", null=True),
        _text("base", null=True),
        _text("job_id", null=True),
        _primary("ledger", "key"),
        _foreign("ledger", ["project_id"], "projects", ["id"]),
    )
    _index("ledger", "job_id")
    _index("ledger", "project_id", "created_at", "key")
    _index("ledger", "project_id", "settled_at")
    _index("ledger", "state", "created_at")
    op.create_table(
        "balances",
        _text("project_id"),
        _integer("spent"),
        _primary("balances", "project_id"),
        _foreign("balances", ["project_id"], "projects", ["id"]),
    )
    op.create_table(
        "prices",
        _text("version"),
        _text("book"),
        _real("created_at"),
        _primary("prices", "version"),
    )


def _install() -> None:
    op.create_table(
        "settings",
        _text("key"),
        _text("value"),
        _primary("settings", "key"),
    )
    op.create_table(
        "generation",
        _integer("id"),
        _integer("value"),
        _primary("generation", "id"),
    )


_TABLES = [
    "organizations",
    "projects",
    "api_keys",
    "files",
    "jobs",
    "job_events",
    "runs",
    "machines",
    "weights",
    "checkpoints",
    "adapters",
    "versions",
    "aliases",
    "alias_moves",
    "evaluations",
    "endpoints",
    "placements",
    "ledger",
    "balances",
    "prices",
    "settings",
    "generation",
]
