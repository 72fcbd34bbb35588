"""Queries for jobs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from app.jobs.watch import JobState
from app.pages import Position
from models.idempotency import IdempotencyKey
from models.job import TERMINAL, Job, JobStatus


@dataclass(frozen=True)
class JobFilter:
    """What a list is narrowed to."""

    statuses: Collection[JobStatus] = ()
    name: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


def find(session: Session, tenant: str, job_id: str) -> Job | None:
    """The tenant's job of that id."""
    return session.scalars(select(Job).where(Job.id == job_id, Job.tenant == tenant)).one_or_none()


def page(
    session: Session, tenant: str, narrowed: JobFilter, position: Position | None, limit: int
) -> list[Job]:
    """Up to `limit` jobs behind `position`, the newest first."""
    query = select(Job).where(Job.tenant == tenant)
    if narrowed.statuses:
        query = query.where(Job.status.in_(narrowed.statuses))
    if narrowed.name is not None:
        query = query.where(Job.name == narrowed.name)
    if narrowed.created_after is not None:
        query = query.where(Job.created_at > narrowed.created_after)
    if narrowed.created_before is not None:
        query = query.where(Job.created_at < narrowed.created_before)
    if position is not None:
        same_time = and_(Job.created_at == position.created_at, Job.id < position.id)
        query = query.where(or_(Job.created_at < position.created_at, same_time))
    return list(session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)))


def states(session: Session, ids: Collection[str]) -> dict[str, JobState]:
    """How far these jobs are, without their documents."""
    rows = session.execute(select(Job.id, Job.version, Job.status).where(Job.id.in_(ids)))
    return {row.id: JobState(row.version, row.status in TERMINAL) for row in rows}


def find_key(session: Session, tenant: str, key: str) -> IdempotencyKey | None:
    """The record of an idempotency key."""
    return session.get(IdempotencyKey, (tenant, key))


def add_key(session: Session, tenant: str, key: str, request_digest: str, job_id: str) -> None:
    """Remember that the key stands for the job. A second writer of the same key gets IntegrityError."""
    session.add(IdempotencyKey(tenant=tenant, key=key, request_digest=request_digest, job_id=job_id))
    session.flush()


def uses_upload(session: Session, tenant: str, upload_id: str) -> str | None:
    """The id of a job that has not ended and refers to the upload."""
    refers = or_(
        Job.spec["base_model"]["upload"].as_string() == upload_id,
        Job.spec["dataset"]["upload"].as_string() == upload_id,
    )
    alive = Job.status.not_in(TERMINAL)
    return session.scalars(select(Job.id).where(Job.tenant == tenant, alive, refers).limit(1)).first()
