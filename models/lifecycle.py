"""The life of a job as guarded statements: create, claim, heartbeat, end, give back, cancel, requeue.

Each function runs inside the caller's `Database.transaction()`. A run proves that it still holds
the job by the attempt number it claimed with: a statement that finds no such row raises
`LeaseLost`, and the run must stop at once without writing anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session, aliased

from models.artifact import Artifact
from models.database import after, now
from models.event import Event
from models.job import DEFAULT_TENANT, TRANSITIONS, Job, JobStatus
from models.spec import JobSpec

BACKOFF_SECONDS = 10.0
LONGEST_BACKOFF_SECONDS = 600.0
MAX_MEMORY_LOSSES = 2


class LeaseLost(Exception):
    """Another run holds the job, or it ended: this run's writes count no more."""


@dataclass(frozen=True)
class ClaimedJob:
    """What a worker needs to start a run."""

    id: str
    attempt: int
    tenant: str
    spec: dict[str, Any]
    spec_digest: str


@dataclass(frozen=True)
class Lease:
    """The answer to a heartbeat: does the run still hold the job, and should it stop."""

    held: bool
    cancel_requested: bool


@dataclass(frozen=True)
class JobError:
    """Why a job failed, in the shape of a problem."""

    code: str
    detail: str
    remedy: str
    pointer: str | None = None
    retryable: bool = False

    def document(self) -> dict[str, Any]:
        """The JSON that is stored and shown."""
        return {
            "code": self.code,
            "detail": self.detail,
            "remedy": self.remedy,
            "pointer": self.pointer,
            "retryable": self.retryable,
        }


@dataclass(frozen=True)
class Delivery:
    """A file to be listed with a finished job; its bytes are in the store already."""

    name: str
    size: int
    sha256: str
    media_type: str


@dataclass(frozen=True)
class Requeued:
    """What the reaper did."""

    queued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)


def create(session: Session, spec: JobSpec, *, tenant: str = DEFAULT_TENANT, priority: int = 0) -> Job:
    """Add a queued job and its first event. Send a hint after the transaction is committed."""
    job = Job(
        tenant=tenant,
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(),
        metadata_=dict(spec.metadata),
        priority=priority,
    )
    session.add(job)
    session.flush()
    _tell(session, job.id, 0, "job.created", "The job is queued.")
    return job


def claim(session: Session, worker: str, lease_seconds: float) -> ClaimedJob | None:
    """Take the job that is next: highest priority, then the tenant with fewest running, then oldest."""
    candidate = aliased(Job)
    running = aliased(Job)
    of_same_tenant = (
        select(func.count())
        .where(running.tenant == candidate.tenant, running.status == JobStatus.RUNNING)
        .correlate(candidate)
        .scalar_subquery()
    )
    following = (
        select(candidate.id)
        .where(candidate.status == JobStatus.QUEUED, candidate.available_at <= now(session))
        .order_by(candidate.priority.desc(), of_same_tenant, candidate.created_at, candidate.id)
        .limit(1)
        # Postgres: a row that another worker is just taking is passed over instead of waited for.
        .with_for_update(of=candidate, skip_locked=True)
        .scalar_subquery()
    )
    return _claim(session, Job.id == following, worker, lease_seconds)


def claim_one(session: Session, job_id: str, worker: str, lease_seconds: float) -> ClaimedJob | None:
    """Take this job if it is queued and its time has come."""
    return _claim(session, Job.id == job_id, worker, lease_seconds)


def heartbeat(session: Session, job_id: str, attempt: int, lease_seconds: float) -> Lease:
    """Extend the lease and learn whether the run should stop, in one statement."""
    statement = (
        update(Job)
        .where(*_held(job_id, attempt))
        .values(lease_until=after(session, lease_seconds))
        .returning(Job.cancel_requested)
        .execution_options(synchronize_session=False)
    )
    row = session.execute(statement).one_or_none()
    return Lease(held=row is not None, cancel_requested=row is not None and row.cancel_requested)


def succeed(
    session: Session,
    job_id: str,
    attempt: int,
    *,
    result: dict[str, Any],
    artifacts: Sequence[Delivery],
    progress: dict[str, Any],
) -> None:
    """End the run with its files, in one guarded transaction. Raises LeaseLost."""
    _end(session, job_id, attempt, JobStatus.SUCCEEDED, result=result, progress=progress, error=None)
    session.execute(delete(Artifact).where(Artifact.job_id == job_id))
    session.add_all(
        Artifact(job_id=job_id, name=one.name, size=one.size, sha256=one.sha256, media_type=one.media_type)
        for one in artifacts
    )
    names = [one.name for one in artifacts]
    _tell(session, job_id, attempt, "job.succeeded", "The job is done.", artifacts=names)


def fail(session: Session, job_id: str, attempt: int, error: JobError) -> None:
    """End the run with a typed error. Raises LeaseLost."""
    _end(session, job_id, attempt, JobStatus.FAILED, error=error.document())
    _tell(session, job_id, attempt, "job.failed", error.detail, "error", code=error.code)


def cancel_run(session: Session, job_id: str, attempt: int) -> None:
    """End a run that stopped because the user asked for it. Raises LeaseLost."""
    _end(session, job_id, attempt, JobStatus.CANCELLED)
    _tell(session, job_id, attempt, "job.cancelled", "The job was cancelled.")


def release(
    session: Session, job_id: str, attempt: int, *, message: str, delay_seconds: float = 0.0
) -> JobStatus:
    """Give the job back after an orderly stop; it goes on from its checkpoint. Raises LeaseLost.

    Returns:
        `queued`, or `cancelled` where the user asked for that meanwhile.
    """
    return _give_back(session, job_id, attempt, message, delay_seconds, losses=0)


def run_died(
    session: Session, job_id: str, attempt: int, *, out_of_memory: bool, max_attempts: int, error: JobError
) -> JobStatus:
    """A run ended without an answer: back to the queue, or failed once that happened too often.

    Out-of-memory kills rarely go better on the next try, so they end a job at the second one.
    Raises LeaseLost.
    """
    statement = select(Job.losses).where(*_held(job_id, attempt)).with_for_update()
    losses = session.execute(statement).scalar_one_or_none()
    if losses is None:
        raise LeaseLost(job_id)
    limit = min(max_attempts, MAX_MEMORY_LOSSES) if out_of_memory else max_attempts
    if losses + 1 < limit:
        delay = _backoff(losses)
        return _give_back(
            session, job_id, attempt, f"{error.detail} It will be tried again.", delay, losses=1
        )
    if _cancel_if_asked(session, job_id, attempt):
        return JobStatus.CANCELLED
    fail(session, job_id, attempt, error)
    return JobStatus.FAILED


def requeue_expired(session: Session, max_attempts: int) -> Requeued:
    """Take back the jobs whose worker fell silent for a whole lease."""
    done = Requeued()
    expired = select(Job.id, Job.attempt).where(
        Job.status == JobStatus.RUNNING, Job.lease_until < now(session)
    )
    for job_id, attempt in session.execute(expired.with_for_update(skip_locked=True)).all():
        status = run_died(
            session, job_id, attempt, out_of_memory=False, max_attempts=max_attempts, error=WORKER_LOST
        )
        {
            JobStatus.QUEUED: done.queued,
            JobStatus.FAILED: done.failed,
            JobStatus.CANCELLED: done.cancelled,
        }[status].append(job_id)
    return done


def request_cancel(session: Session, job_id: str, *, tenant: str = DEFAULT_TENANT) -> Job | None:
    """Cancel a queued job at once; ask the run of a running one to stop. None: no such job.

    Asking again, or for a job that is done, changes nothing.
    """
    wanted = select(Job).where(Job.id == job_id, Job.tenant == tenant).with_for_update()
    job = session.scalars(wanted).one_or_none()
    if job is None or job.done or job.cancel_requested:
        return job
    if job.status == JobStatus.QUEUED:
        _move(
            session,
            JobStatus.CANCELLED,
            Job.id == job_id,
            cancel_requested=True,
            finished_at=now(session),
        )
        _tell(session, job_id, job.attempt, "job.cancelled", "The job was cancelled before it ran.")
    else:
        touch(session, job_id, job.attempt, cancel_requested=True)
        _tell(session, job_id, job.attempt, "job.cancel_requested", "The run was asked to stop.")
    session.refresh(job)
    return job


def touch(session: Session, job_id: str, attempt: int, **values: Any) -> bool:
    """Change visible columns of a running job, as the run that holds it. Raises LeaseLost.

    Returns:
        Whether the user asked the run to stop.
    """
    statement = (
        update(Job)
        .where(*_held(job_id, attempt))
        .values(version=Job.version + 1, updated_at=now(session), **values)
        .returning(Job.cancel_requested)
        .execution_options(synchronize_session=False)
    )
    cancel_requested = session.execute(statement).scalar_one_or_none()
    if cancel_requested is None:
        raise LeaseLost(job_id)
    return cancel_requested


def claimable(session: Session) -> int:
    """How many jobs wait for a worker now."""
    statement = select(func.count()).where(Job.status == JobStatus.QUEUED, Job.available_at <= now(session))
    return session.execute(statement).scalar_one()


WORKER_LOST = JobError(
    code="worker_lost",
    detail="The worker that ran the job was lost.",
    remedy="Submit the job again; if it happens again, ask the operator about the workers' memory and logs.",
    retryable=True,
)


def _held(job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    return Job.id == job_id, Job.attempt == attempt, Job.status == JobStatus.RUNNING


def _claim(
    session: Session, which: ColumnElement[bool], worker: str, lease_seconds: float
) -> ClaimedJob | None:
    row = _move(
        session,
        JobStatus.RUNNING,
        which,
        Job.available_at <= now(session),
        attempt=Job.attempt + 1,
        worker=worker,
        lease_until=after(session, lease_seconds),
        started_at=func.coalesce(Job.started_at, now(session)),
    )
    if row is None:
        return None
    _tell(session, row.id, row.attempt, "job.started", "A worker took the job.", attempt=row.attempt)
    return ClaimedJob(row.id, row.attempt, row.tenant, row.spec, row.spec_digest)


def _end(session: Session, job_id: str, attempt: int, to: JobStatus, **values: Any) -> None:
    row = _move(
        session,
        to,
        *_held(job_id, attempt),
        finished_at=now(session),
        lease_until=None,
        **values,
    )
    if row is None:
        raise LeaseLost(job_id)


def _give_back(
    session: Session, job_id: str, attempt: int, message: str, delay: float, *, losses: int
) -> JobStatus:
    row = _move(
        session,
        JobStatus.QUEUED,
        *_held(job_id, attempt),
        Job.cancel_requested.is_(False),
        lease_until=None,
        worker=None,
        available_at=after(session, delay),
        losses=Job.losses + losses,
    )
    if row is not None:
        _tell(session, job_id, attempt, "job.requeued", message, "warning" if losses else "info")
        return JobStatus.QUEUED
    # The flag only ever goes up, so what the first statement passed over is found by this one.
    if _cancel_if_asked(session, job_id, attempt):
        return JobStatus.CANCELLED
    raise LeaseLost(job_id)


def _cancel_if_asked(session: Session, job_id: str, attempt: int) -> bool:
    row = _move(
        session,
        JobStatus.CANCELLED,
        *_held(job_id, attempt),
        Job.cancel_requested.is_(True),
        finished_at=now(session),
        lease_until=None,
    )
    if row is None:
        return False
    _tell(session, job_id, attempt, "job.cancelled", "The job was cancelled.")
    return True


def _move(session: Session, to: JobStatus, *conditions: ColumnElement[bool], **values: Any) -> Any:
    """The only statement that changes a status: from one that the table of moves allows, or nothing."""
    sources = [status for status, following in TRANSITIONS.items() if to in following]
    statement = (
        update(Job)
        .where(*conditions, Job.status.in_(sources))
        .values(status=to, version=Job.version + 1, updated_at=now(session), **values)
        .returning(Job.id, Job.attempt, Job.tenant, Job.spec, Job.spec_digest)
        .execution_options(synchronize_session=False)
    )
    return session.execute(statement).one_or_none()


def _backoff(losses: int) -> float:
    return float(min(BACKOFF_SECONDS * 2**losses, LONGEST_BACKOFF_SECONDS))


def _tell(
    session: Session, job_id: str, attempt: int, type: str, message: str, level: str = "info", /, **data: Any
) -> None:
    # Called after the job's row is locked by an UPDATE, so the ids of one job rise in commit order
    # and a client that resumes after an id misses nothing.
    session.add(Event(job_id=job_id, attempt=attempt, type=type, level=level, message=message, data=data))
    session.flush()
