"""Blobs and what is to be deleted; uploads that jobs need; indexes for queries of flat cost"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

import models.base

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")
RUNNING = sa.text("status = 'running'")
TO_SWEEP = sa.text("sweep_at IS NOT NULL")
TO_CHECK = sa.text("check_at IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "blob",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("check_at", models.base.UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blob")),
    )
    op.create_index(
        "ix_blob_check_at", "blob", ["check_at"], postgresql_where=TO_CHECK, sqlite_where=TO_CHECK
    )
    op.create_table(
        "garbage",
        sa.Column("key", sa.String(length=300), nullable=False),
        sa.Column("due_at", models.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_garbage")),
    )
    op.create_index("ix_garbage_due_at", "garbage", ["due_at"])
    op.create_table(
        "job_upload",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("upload_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job.id"], name=op.f("fk_job_upload_job_id_job"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["upload_id"], ["upload.id"], name=op.f("fk_job_upload_upload_id_upload")),
        sa.PrimaryKeyConstraint("job_id", "upload_id", name=op.f("pk_job_upload")),
    )
    op.create_index("ix_job_upload_upload_id", "job_upload", ["upload_id"])
    for table in ("artifact", "upload"):
        op.add_column(table, sa.Column("generation", sa.Integer(), nullable=False, server_default="0"))
        with op.batch_alter_table(table) as batch_op:
            batch_op.alter_column("generation", server_default=None)
        op.create_index(op.f(f"ix_{table}_sha256"), table, ["sha256"])
    op.create_index("ix_upload_expires_at", "upload", ["expires_at"])
    # Not in batch mode: on SQLite that would make the table anew, and delete what refers to it.
    op.add_column("job", sa.Column("sweep_at", models.base.UtcDateTime(timezone=True), nullable=True))
    for name in ("ix_job_claim", "ix_job_list", "ix_job_lease"):
        op.drop_index(name, table_name="job")
    op.create_index("ix_job_list", "job", ["tenant", "status", "created_at", "id"])
    op.create_index("ix_job_name", "job", ["tenant", "name", "status", "created_at", "id"])
    in_turn: list[str | sa.TextClause] = [
        "tenant",
        sa.text("priority DESC"),
        "created_at",
        "id",
        "available_at",
    ]
    _partial("ix_job_queue", in_turn, QUEUED)
    _partial("ix_job_queued", ["created_at", "available_at"], QUEUED)
    _partial("ix_job_running", ["tenant"], RUNNING)
    _partial("ix_job_lease", ["lease_until"], RUNNING)
    _partial("ix_job_sweep", ["sweep_at"], TO_SWEEP)
    _carry_over()


def downgrade() -> None:
    for name in ("sweep", "lease", "running", "queued", "queue", "name", "list"):
        op.drop_index(f"ix_job_{name}", table_name="job")
    op.drop_column("job", "sweep_at")
    op.create_index("ix_job_claim", "job", ["status", "priority", "created_at"])
    op.create_index("ix_job_lease", "job", ["status", "lease_until"])
    op.create_index("ix_job_list", "job", ["tenant", "created_at", "id"])
    op.drop_index("ix_upload_expires_at", table_name="upload")
    op.drop_table("job_upload")
    for table in ("upload", "artifact"):
        op.drop_index(op.f(f"ix_{table}_sha256"), table_name=table)
        with op.batch_alter_table(table) as batch_op:
            batch_op.drop_column("generation")
    op.drop_table("garbage")
    op.drop_table("blob")


def _partial(name: str, columns: list[str | sa.TextClause], where: sa.TextClause) -> None:
    op.create_index(name, "job", columns, postgresql_where=where, sqlite_where=where)


def _carry_over() -> None:
    """Known bytes, the uploads that jobs need now, and the ended jobs with something to clear away."""
    op.execute(
        "INSERT INTO blob (sha256, generation) "
        "SELECT sha256, 0 FROM artifact UNION SELECT sha256, 0 FROM upload"
    )
    op.execute("UPDATE job SET sweep_at = finished_at WHERE status IN ('succeeded', 'failed', 'cancelled')")
    connection = op.get_bind()
    link = sa.text(
        "INSERT INTO job_upload (job_id, upload_id) SELECT :job, id FROM upload WHERE id IN (:model, :data)"
    )
    alive = connection.execute(sa.text("SELECT id, spec FROM job WHERE status IN ('queued', 'running')"))
    for job_id, stored in alive.all():
        spec = json.loads(stored) if isinstance(stored, str) else stored
        sources = [(spec.get(field) or {}).get("upload") for field in ("base_model", "dataset")]
        if any(sources):
            connection.execute(link, {"job": job_id, "model": sources[0], "data": sources[1]})
