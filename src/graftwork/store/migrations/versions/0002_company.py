"""Machines that several runs share: when a run left, and since when nobody may come aboard."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_company"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; machines made before have one run and are shared by none."""
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("off_at", sa.Double(), nullable=True))
        runs.add_column(sa.Column("bumped", sa.Text(), nullable=True))
    op.create_index("ix_runs_machine", "runs", ["machine"])
    with op.batch_alter_table("machines") as machines:
        machines.add_column(sa.Column("shared", sa.Boolean(), nullable=False, server_default=sa.false()))
        machines.add_column(sa.Column("closed_at", sa.Double(), nullable=True))
        machines.add_column(sa.Column("gpu", sa.Text(), nullable=True))
        for name, before in (("memory", "0"), ("cores", "1"), ("gpus", "0")):
            machines.add_column(sa.Column(name, sa.BigInteger(), nullable=False, server_default=before))


def downgrade() -> None:
    """Drop the columns."""
    with op.batch_alter_table("machines") as machines:
        for name in ("gpu", "gpus", "cores", "memory", "closed_at", "shared"):
            machines.drop_column(name)
    op.drop_index("ix_runs_machine", "runs")
    with op.batch_alter_table("runs") as runs:
        runs.drop_column("bumped")
        runs.drop_column("off_at")
