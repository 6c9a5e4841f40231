"""Exports of versions, and how far metrics were told to trackers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003_exports"
down_revision = "0002_company"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "exports",
        _text("id", null=False),
        _text("project_id", null=False),
        _text("version_id", null=False),
        _text("format", null=False),
        _text("quant", null=False),
        sa.Column("with_base", sa.Boolean(), nullable=False),
        _text("repository"),
        sa.Column("private", sa.Boolean(), nullable=False),
        _text("state", null=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        _text("files"),
        _text("url"),
        _text("error"),
        sa.Column("finished_at", sa.Double(), nullable=True),
        *_lease(),
        sa.PrimaryKeyConstraint("id", name="pk_exports"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_exports_project_id"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_exports_version_id"),
    )
    op.create_index("ix_exports_project_id_created_at_id", "exports", ["project_id", "created_at", "id"])
    op.create_index("ix_exports_state_next_at", "exports", ["state", "next_at"])
    op.create_table(
        "mirrors",
        _text("id", null=False),
        _text("job_id", null=False),
        _text("tracker", null=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("fence", "cursor", "step")),
        _text("remote"),
        sa.Column("done", sa.Boolean(), nullable=False),
        *_lease(),
        sa.PrimaryKeyConstraint("id", name="pk_mirrors"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_mirrors_job_id"),
        sa.UniqueConstraint("job_id", "tracker", name="uq_mirrors_job_id_tracker"),
    )
    op.create_index("ix_mirrors_done_next_at", "mirrors", ["done", "next_at"])


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("mirrors")
    op.drop_table("exports")


def _text(name: str, *, null: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=null)


def _lease() -> list[sa.Column[Any]]:
    return [
        sa.Column("next_at", sa.Double(), nullable=False),
        _text("lease_owner"),
        _text("lease_token"),
        sa.Column("lease_until", sa.Double(), nullable=True),
    ]
