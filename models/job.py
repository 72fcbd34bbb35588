"""A job, and the one table of the moves its status may make."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Enum, Index, String, TextClause, literal, text
from sqlalchemy.orm import Mapped, mapped_column

from models import logs, telemetry
from models.base import Base, new_id, utc_now

DEFAULT_TENANT = "default"


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
TERMINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)


def status_is(status: JobStatus) -> ColumnElement[bool]:
    """The condition, written out: a parameter would keep the planner from using a partial index."""
    return Job.status == literal(status, Job.status.type, literal_execute=True)


_QUEUED = text("status = 'queued'")
_RUNNING = text("status = 'running'")


def _partial(name: str, *columns: str | TextClause, where: TextClause) -> Index:
    return Index(name, *columns, postgresql_where=where, sqlite_where=where)


class Job(Base):
    """One row a job: the truth about it, and the outbox that the dispatcher reads.

    `attempt` is the fencing token of the run that holds the lease; `version` rises with every
    change that a client can see and serves as ETag. `losses` counts the runs that died without
    giving the job back; orderly stops do not use up a job's chances. `claimed_at` is when the
    attempt began, `run_seconds` what the runs before it took a worker, `sweep_at` when the collector
    next has something to clear away of an ended job. `device` is the spec's target device: a worker takes the
    jobs of devices that it has. `request_id` and `trace_context` (W3C) tie what
    the workers tell about the job to the request that created it.

    No statement that the service asks all the time reads more rows than it answers, however long the
    table is (tests/models/test_query_plans.py). Hence the partial indexes: the queue in the order it is
    taken, the few running jobs, the ended ones with something left.
    """

    __tablename__ = "job"
    __table_args__ = (
        Index("ix_job_list", "tenant", "status", "created_at", "id"),
        Index("ix_job_name", "tenant", "name", "status", "created_at", "id"),
        _partial(
            "ix_job_queue",
            *("tenant", "device", text("priority DESC"), "created_at", "id", "available_at"),
            where=_QUEUED,
        ),
        _partial("ix_job_queued", "created_at", "available_at", where=_QUEUED),
        _partial("ix_job_running", "tenant", where=_RUNNING),
        _partial("ix_job_lease", "lease_until", where=_RUNNING),
        _partial("ix_job_sweep", "sweep_at", where=text("sweep_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("job"))
    tenant: Mapped[str] = mapped_column(String(64), default=DEFAULT_TENANT)
    name: Mapped[str] = mapped_column(String(100))
    status: Mapped[JobStatus] = mapped_column(
        Enum(
            JobStatus,
            native_enum=False,
            length=16,
            create_constraint=True,
            name="status",
            values_callable=lambda members: [member.value for member in members],
        ),
        default=JobStatus.QUEUED,
    )
    spec: Mapped[dict[str, Any]]
    spec_digest: Mapped[str] = mapped_column(String(64))
    device: Mapped[str] = mapped_column(String(16), default="cpu", server_default="cpu")
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata", default=dict)
    priority: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
    available_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    claimed_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    run_seconds: Mapped[float] = mapped_column(default=0.0)
    worker: Mapped[str | None] = mapped_column(String(200))
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    expires_at: Mapped[datetime | None]
    sweep_at: Mapped[datetime | None]
    request_id: Mapped[str | None] = mapped_column(String(128), default=logs.bound_request_id)
    trace_context: Mapped[dict[str, str] | None] = mapped_column(default=telemetry.carrier_or_none)

    @property
    def done(self) -> bool:
        """The status will not change any more."""
        return self.status in TERMINAL
