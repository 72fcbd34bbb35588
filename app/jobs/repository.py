"""Queries for jobs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, select, union_all
from sqlalchemy.orm import Session

from app.jobs.watch import JobState
from app.pages import Position
from app.problems import unknown_job
from models.job import TERMINAL, Job, JobStatus


@dataclass(frozen=True)
class JobFilter:
    """What a list is narrowed to."""

    statuses: Collection[JobStatus] = ()
    name: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


# Asked most by far; to compose one of these statements takes longer than to run it.
_JOB = Job.metadata.tables[Job.__tablename__]
_THIS_JOB = (_JOB.c.id == bindparam("id"), _JOB.c.tenant == bindparam("tenant"))
_FIND = select(Job).where(*_THIS_JOB)
_COLUMNS = [_JOB.c[column.name].label(name) for name, column in Job.__mapper__.columns.items()]
_FIND_ROW = select(*_COLUMNS).where(*_THIS_JOB)
_FIND_STATE = select(_JOB.c.version, _JOB.c.status).where(*_THIS_JOB)


def existing(session: Session, tenant: str, job_id: str) -> Job:
    """The tenant's job of that id.

    Raises:
        NotFound: there is none, or it is another tenant's.
    """
    row = session.scalars(_FIND, {"id": job_id, "tenant": tenant}).one_or_none()
    if row is None:
        raise unknown_job(job_id)
    return row


def shown(connection: Connection, tenant: str, job_id: str) -> Row[Any] | None:
    """The tenant's job as a row that has the names of a `Job`, to be shown and nothing else."""
    return connection.execute(_FIND_ROW, {"id": job_id, "tenant": tenant}).one_or_none()


def state(connection: Connection, tenant: str, job_id: str) -> JobState | None:
    """How far the tenant's job is, without its documents."""
    row = connection.execute(_FIND_STATE, {"id": job_id, "tenant": tenant}).one_or_none()
    return None if row is None else JobState(row.version, row.status in TERMINAL)


def page(
    session: Session, tenant: str, narrowed: JobFilter, position: Position | None, limit: int
) -> list[Job]:
    """Up to `limit` jobs behind `position`, the newest first."""
    parts = [
        select(_page_of(tenant, status, narrowed, position, limit).subquery())
        for status in sorted(narrowed.statuses or JobStatus)
    ]
    # An index gives each status in order, but not two of them: so many short pages are merged.
    merged = union_all(*parts).subquery()
    behind = merged.c.created_at.desc(), merged.c.id.desc()
    shown = select(merged.c.id).order_by(*behind).limit(limit).subquery()
    query = select(Job).join(shown, shown.c.id == Job.id)
    return list(session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc())))


def states(session: Session, ids: Collection[str]) -> dict[str, JobState]:
    """How far these jobs are, without their documents."""
    rows = session.execute(select(Job.id, Job.version, Job.status).where(Job.id.in_(ids)))
    return {row.id: JobState(row.version, row.status in TERMINAL) for row in rows}


def lock(session: Session, tenant: str, job_id: str) -> Job | None:
    """The tenant's job, to be removed in this transaction."""
    query = select(Job).where(Job.id == job_id, Job.tenant == tenant)
    return session.scalars(query.with_for_update()).one_or_none()


def _page_of(
    tenant: str, status: JobStatus, narrowed: JobFilter, position: Position | None, limit: int
) -> Select[str, datetime]:
    query = select(Job.id, Job.created_at).where(Job.tenant == tenant, Job.status == status)
    if narrowed.name is not None:
        query = query.where(Job.name == narrowed.name)
    if narrowed.created_after is not None:
        query = query.where(Job.created_at > narrowed.created_after)
    if narrowed.created_before is not None:
        query = query.where(Job.created_at < narrowed.created_before)
    if position is not None:
        query = query.where(position.is_before(Job.created_at, Job.id))
    return query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)
