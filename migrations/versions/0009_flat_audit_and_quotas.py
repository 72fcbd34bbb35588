"""Audit events by age; the bytes that each tenant stores, counted"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_audit_event_at", "audit_event", ["at"])
    op.create_table(
        "stored_use",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_stored_use")),
    )
    op.execute(
        "INSERT INTO stored_use (tenant, bytes) SELECT tenant, SUM(size) FROM ("
        "SELECT tenant, size FROM upload UNION ALL "
        "SELECT job.tenant, artifact.size FROM artifact JOIN job ON job.id = artifact.job_id"
        ") AS stored GROUP BY tenant"
    )


def downgrade() -> None:
    op.drop_table("stored_use")
    op.drop_index("ix_audit_event_at", table_name="audit_event")
