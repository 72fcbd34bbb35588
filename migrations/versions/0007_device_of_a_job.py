"""The device that a job is meant for, in the order of the queue"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")
IN_TURN = (sa.text("priority DESC"), "created_at", "id", "available_at")


def upgrade() -> None:
    # Not in batch mode: on SQLite that would make the table anew, and delete what refers to it.
    op.add_column("job", sa.Column("device", sa.String(length=16), nullable=False, server_default="cpu"))
    postgres = op.get_bind().dialect.name == "postgresql"
    asked = "spec -> 'target' ->> 'device'" if postgres else "json_extract(spec, '$.target.device')"
    op.execute(f"UPDATE job SET device = 'cuda' WHERE {asked} = 'cuda'")
    _queue("tenant", "device")


def downgrade() -> None:
    _queue("tenant")
    op.drop_column("job", "device")


def _queue(*columns: str) -> None:
    op.drop_index("ix_job_queue", table_name="job")
    op.create_index("ix_job_queue", "job", [*columns, *IN_TURN], postgresql_where=QUEUED, sqlite_where=QUEUED)
