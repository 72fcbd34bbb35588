"""What goes by age, as bounded batches of guarded statements; several collectors do no harm.

Each function runs inside the caller's `Database.transaction()`, works on at most `limit` entries that
an index finds, and locks what it works on: another collector passes over it. Bytes are not touched
here, they become garbage (`models.blobs`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Delete, Row, and_, case, delete, select, update
from sqlalchemy.orm import Session

from models import blobs, exporting, usage
from models.artifact import Artifact
from models.audit import AuditEvent
from models.checkpoint import Checkpoint
from models.database import after, now
from models.event import Event
from models.idempotency import IdempotencyKey
from models.job import TERMINAL, Job, JobStatus
from models.shard import Shard
from models.statements import remove_oldest
from models.upload import JobUpload, Upload

BATCH = 100
LOOK_AGAIN_HOURS = 1.0  # at a state that is past its time, and in use


@dataclass(frozen=True)
class Keeping:
    """How long things are kept."""

    upload_days: float
    event_days: float
    idempotency_hours: float
    audit_days: float
    """0: for ever."""
    state_days: float = 0.0


def sweep_jobs(session: Session, keeping: Keeping, limit: int = BATCH) -> list[str]:
    """Clear away what ended jobs need no longer: checkpoints, files and events in their time.

    Checkpoints of jobs that succeeded are kept for `state_days`, and for as long as a job goes on from them;
    others go at once.

    Returns the ids of the jobs looked at.
    """
    moment = session.execute(select(now(session))).scalar_one()
    due = select(Job).where(Job.sweep_at <= now(session)).order_by(Job.sweep_at).limit(limit)
    jobs = session.scalars(due.with_for_update(skip_locked=True)).all()
    ids = [job.id for job in jobs]
    needed = _states_needed(session, jobs, keeping, moment)
    stateless = [job.id for job in jobs if job.id not in needed]
    blobs.discard_checkpoints(session, [job.id for job in jobs if job.attempt > 0 and job.id not in needed])
    _run(session, delete(Checkpoint).where(Checkpoint.job_id.in_(stateless)))
    _run(session, delete(Shard).where(Shard.job_id.in_(ids)))
    release_uploads(session, ids, keeping.upload_days)
    drop_artifacts(session, [job.id for job in jobs if _is_past(job.expires_at, moment)])
    silent = [job for job in jobs if _is_past(_events_end(job, keeping), moment)]
    _run(session, delete(Event).where(Event.job_id.in_([job.id for job in silent])))
    for job in jobs:
        ends = (_events_end(job, keeping), job.expires_at, needed.get(job.id))
        job.sweep_at = min((end for end in ends if end is not None and end > moment), default=None)
    return ids


def expire_uploads(session: Session, keeping: Keeping, limit: int = BATCH) -> list[str]:
    """Remove the uploads whose time is over, but keep those that a job needs. Returns the removed ids."""
    due = select(Upload.id).where(Upload.expires_at <= now(session)).order_by(Upload.expires_at).limit(limit)
    ids = list(session.scalars(due.with_for_update(skip_locked=True)))
    # Asked after the rows are locked: who creates a job with one of them now waits, and finds none.
    needed = set(session.scalars(select(JobUpload.upload_id).where(JobUpload.upload_id.in_(ids))))
    later = update(Upload).where(Upload.id.in_(needed)).values(expires_at=_days(session, keeping.upload_days))
    session.execute(later.execution_options(synchronize_session=False))
    gone = [upload_id for upload_id in ids if upload_id not in needed]
    remove_uploads(session, gone)
    return gone


def forget_idempotency_keys(session: Session, keeping: Keeping, limit: int = BATCH) -> int:
    """Remove keys older than they are promised to be kept. Returns how many."""
    key = IdempotencyKey.tenant, IdempotencyKey.key
    before = after(session, -keeping.idempotency_hours * 3600)
    return remove_oldest(session, key, IdempotencyKey.created_at, before, limit)


def forget_audit_events(session: Session, keeping: Keeping, limit: int = BATCH) -> int:
    """Remove audit events older than they are kept. Returns how many."""
    if keeping.audit_days == 0:
        return 0
    before = _days(session, -keeping.audit_days)
    return remove_oldest(session, (AuditEvent.id,), AuditEvent.at, before, limit)


def remove_uploads(session: Session, ids: Collection[str]) -> None:
    """Remove uploads that no job needs; their rows are locked by the caller."""
    removed = session.execute(
        select(Upload.tenant, Upload.sha256, Upload.size).where(Upload.id.in_(ids))
    ).all()
    _run(session, delete(JobUpload).where(JobUpload.upload_id.in_(ids)))
    _run(session, delete(Upload).where(Upload.id.in_(ids)))
    _give_up_bytes(session, removed)


def remove_job(session: Session, job: Job, upload_days: float) -> None:
    """Remove a job that is done, with all that belongs to it; its row is locked by the caller."""
    blobs.discard_checkpoints(session, [job.id])
    release_uploads(session, [job.id], upload_days)
    drop_artifacts(session, [job.id])
    _run(session, delete(Job).where(Job.id == job.id))


def drop_artifacts(session: Session, job_ids: Collection[str]) -> None:
    """Remove the files of jobs; the bytes go unless something else refers to them."""
    of_jobs = select(Job.tenant, Artifact.sha256, Artifact.size).join(Job, Job.id == Artifact.job_id)
    removed = session.execute(of_jobs.where(Artifact.job_id.in_(job_ids))).all()
    _run(session, delete(Artifact).where(Artifact.job_id.in_(job_ids)))
    _give_up_bytes(session, removed)


def release_uploads(session: Session, job_ids: Collection[str], upload_days: float) -> None:
    """Jobs that are done need their uploads no longer: the time of those begins anew."""
    used = select(JobUpload.upload_id).where(JobUpload.job_id.in_(job_ids))
    end = _days(session, upload_days)
    session.execute(
        update(Upload)
        .where(Upload.id.in_(used), Upload.expires_at.is_not(None))
        .values(expires_at=case((Upload.expires_at > end, Upload.expires_at), else_=end))
        .execution_options(synchronize_session=False)
    )
    _run(session, delete(JobUpload).where(JobUpload.job_id.in_(job_ids)))


def job_that_needs(session: Session, upload_id: str) -> str | None:
    """The id of a job that has not ended and refers to the upload."""
    users = select(JobUpload.job_id).join(Job, and_(Job.id == JobUpload.job_id, Job.status.not_in(TERMINAL)))
    return session.scalars(users.where(JobUpload.upload_id == upload_id).limit(1)).first()


def _give_up_bytes(session: Session, removed: Iterable[Row[str, str, int]]) -> None:
    """Of rows that were removed: tenant, digest, size."""
    digests = []
    for tenant, sha256, size in removed:
        usage.add(session, tenant, -size)
        digests.append(sha256)
    blobs.detach(session, digests)


def _states_needed(
    session: Session, jobs: Collection[Job], keeping: Keeping, moment: datetime
) -> dict[str, datetime]:
    """When to look again at those of the jobs whose checkpoints are to stay, by their ids."""
    candidates = [job for job in jobs if job.status is JobStatus.SUCCEEDED and job.finished_at is not None]
    ends = {job.id: _state_end(job, keeping) for job in candidates}
    in_use = set(session.scalars(select(Job.id).where(Job.id.in_(ends), exporting.under_way(Job.id))))
    later = moment + timedelta(hours=LOOK_AGAIN_HOURS)
    return {
        job_id: end if end > moment else later
        for job_id, end in ends.items()
        if end > moment or job_id in in_use
    }


def _state_end(job: Job, keeping: Keeping) -> datetime:
    """No later than the job's files."""
    assert job.finished_at is not None
    end = job.finished_at + timedelta(days=keeping.state_days)
    return end if job.expires_at is None else min(end, job.expires_at)


def _events_end(job: Job, keeping: Keeping) -> datetime | None:
    return None if job.finished_at is None else job.finished_at + timedelta(days=keeping.event_days)


def _is_past(end: datetime | None, moment: datetime) -> bool:
    return end is not None and end <= moment


def _days(session: Session, days: float) -> ColumnElement[datetime]:
    return after(session, days * 86400)


def _run(session: Session, statement: Delete) -> None:
    session.execute(statement.execution_options(synchronize_session=False))
