"""Quotas of tenants, what their runs took, and answers kept for idempotency keys

Keys from before are forgotten: they named a job and held no answer.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import models.base

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tenant_quota",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("queued_jobs", sa.Integer(), nullable=True),
        sa.Column("running_jobs", sa.Integer(), nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("compute_minutes", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tenant_quota")),
    )
    op.create_table(
        "compute_use",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "day", name=op.f("pk_compute_use")),
    )
    # Not in batch mode: on SQLite that makes the table anew, and dropping the old one deletes every
    # event, candidate and artifact that refers to it.
    op.add_column("job", sa.Column("claimed_at", models.base.UtcDateTime(timezone=True), nullable=True))
    op.add_column("job", sa.Column("run_seconds", sa.Double(), nullable=False, server_default="0"))
    op.execute("UPDATE job SET claimed_at = updated_at WHERE status = 'running'")
    _drop_idempotency()
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("holder", sa.String(length=32), nullable=True),
        sa.Column("held_until", models.base.UtcDateTime(timezone=True), nullable=True),
        sa.Column("created_at", models.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("pk_idempotency")),
    )
    _index_idempotency()


def downgrade() -> None:
    _drop_idempotency()
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", models.base.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job.id"], name=op.f("fk_idempotency_job_id_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("pk_idempotency")),
    )
    _index_idempotency()
    op.drop_column("job", "run_seconds")
    op.drop_column("job", "claimed_at")
    op.drop_table("compute_use")
    op.drop_table("tenant_quota")


def _drop_idempotency() -> None:
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.drop_index("ix_idempotency_created_at")
    op.drop_table("idempotency")


def _index_idempotency() -> None:
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.create_index("ix_idempotency_created_at", ["created_at"], unique=False)
