"""Requests that projects opted to keep, and what they opted for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_kept"
down_revision = "0003_exports"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables; nobody has opted for anything yet."""
    op.create_table(
        "keeping",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("days", sa.BigInteger(), nullable=False),
        sa.Column("redact", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", name="pk_keeping"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_keeping_project_id"),
    )
    op.create_table(
        "kept",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("model", "base", "adapter", "version")),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_kept"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_kept_project_id"),
    )
    op.create_index("ix_kept_project_id_created_at_id", "kept", ["project_id", "created_at", "id"])
    op.create_index("ix_kept_expires_at", "kept", ["expires_at"])


def downgrade() -> None:
    """Drop both tables and what is in them."""
    op.drop_table("kept")
    op.drop_table("keeping")
