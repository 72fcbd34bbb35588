"""Running totals for /metrics; the request and trace that a job comes from"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tally",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("name", "label", "part", name=op.f("pk_tally")),
    )
    # Not in batch mode: on SQLite that would make the table anew, and delete what refers to it.
    op.add_column("job", sa.Column("request_id", sa.String(length=128), nullable=True))
    op.add_column("job", sa.Column("trace_context", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("job", "trace_context")
    op.drop_column("job", "request_id")
    op.drop_table("tally")
