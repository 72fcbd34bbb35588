"""The life of a job as guarded statements: create, claim, heartbeat, end, give back, cancel, requeue.

Each function runs inside the caller's `Database.transaction()`. A run proves that it still holds
the job by the attempt number it claimed with: a statement that finds no such row raises
`LeaseLost`, and the run must stop at once without writing anything else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, func, insert, literal, select, update
from sqlalchemy.orm import Session

from models import blobs, outbox, queue, quotas, tally, usage
from models.artifact import Artifact
from models.base import new_id, utc_now
from models.database import after, now
from models.event import Event
from models.inserts import insert_event, insert_job
from models.job import DEFAULT_TENANT, TERMINAL, TRANSITIONS, Job, JobStatus
from models.lifecycle_types import ClaimedJob as ClaimedJob
from models.lifecycle_types import Delivery as Delivery
from models.lifecycle_types import JobError as JobError
from models.lifecycle_types import Lease as Lease
from models.lifecycle_types import Requeued as Requeued
from models.spec import DEVICES, JobSpec
from models.store import Blob
from models.upload import JobUpload, Upload

BACKOFF_SECONDS = 3.0
LONGEST_BACKOFF_SECONDS = 600.0
MAX_MEMORY_LOSSES = 2


class LeaseLost(Exception):
    """Another run holds the job, or it ended: this run's writes count no more."""


def create(session: Session, spec: JobSpec, *, tenant: str = DEFAULT_TENANT, priority: int = 0) -> Job:
    """Add a queued job and its first event. Send a hint after the transaction is committed.

    The session does not know the object that is returned.
    """
    given = {
        "id": new_id("job"),
        "tenant": tenant,
        "name": spec.name,
        "status": JobStatus.QUEUED,
        "spec": spec.model_dump(mode="json"),
        "spec_digest": spec.digest(),
        "device": spec.target.device,
        "priority": priority,
        "attempt": 0,
        "version": 1,
        "cancel_requested": False,
        **dict.fromkeys(("created_at", "updated_at"), utc_now()),
    }
    job = Job(**given, metadata_=dict(spec.metadata))
    insert_job(session, {**given, "metadata": job.metadata_})
    _need_uploads(session, job, [spec.base_model.upload, spec.dataset.upload])
    _tell(session, job.id, 0, "job.created", "The job is queued.")
    return job


def claim(
    session: Session,
    worker: str,
    lease_seconds: float,
    *,
    running_limit: int | None = None,
    compute_minutes: float | None = None,
    devices: Collection[str] = DEVICES,
) -> ClaimedJob | None:
    """Take the job that is next: highest priority, then the tenant with fewest running, then oldest.

    Only jobs whose target is one of `devices` are taken. Tenants that run as many as they may, or have used
    up their minutes, are passed over; `running_limit` and `compute_minutes` are for those without own ones.
    """
    for tenant, device in queue.queues_in_turn(
        session, running_limit, devices, compute_minutes=compute_minutes
    ):
        with session.begin_nested() as undoable:
            job_id = queue.take_head(session, tenant, device)
            if job_id is None:
                continue
            job = _claim(session, Job.id == job_id, worker, lease_seconds)
            if quotas.within_running_limit(session, tenant, running_limit):
                return job
            undoable.rollback()  # another worker took the tenant's last place meanwhile
    return None


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
    keep_days: float | None = None,
) -> None:
    """End the run with its files, in one guarded transaction; they are kept for `keep_days` or for ever.

    Raises:
        LeaseLost: another run holds the job, or it ended.
        BlobLost: a file's bytes are no longer in the store; store it again.
    """
    expires_at = None if keep_days is None else after(session, keep_days * 86400)
    values = {"result": result, "progress": progress, "error": None, "expires_at": expires_at}
    tenant = _end(session, job_id, attempt, JobStatus.SUCCEEDED, **values)
    for one in sorted(artifacts, key=lambda one: one.sha256):  # locks in one order
        blobs.attach(session, Blob(one.sha256, one.size, generation=one.generation))
    session.add_all(Artifact(job_id=job_id, **asdict(one)) for one in artifacts)
    usage.add(session, tenant, sum(one.size for one in artifacts))
    names = [one.name for one in artifacts]
    _tell(session, job_id, attempt, "job.succeeded", "The job is done.", artifacts=names)


def fail(session: Session, job_id: str, attempt: int, error: JobError) -> None:
    """End the run with a typed error. Raises LeaseLost."""
    _end(session, job_id, attempt, JobStatus.FAILED, error=error.document())
    _tell(session, job_id, attempt, "job.failed", error.detail, "error", code=error.code)
    tally.count(session, "job_failures", error.code)


def fail_queued(session: Session, job_id: str, error: JobError) -> bool:
    """End a job that no run holds with a typed error. Returns whether it was still queued."""
    row = _move(
        session,
        JobStatus.FAILED,
        Job.id == job_id,
        Job.status == JobStatus.QUEUED,
        error=error.document(),
        finished_at=now(session),
    )
    if row is None:
        return False
    _tell(session, job_id, row.attempt, "job.failed", error.detail, "error", code=error.code)
    return True


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

    Out-of-memory kills rarely go better on the next try, so the second one ends a job.
    Raises LeaseLost.
    """
    statement = select(Job.losses).where(*_held(job_id, attempt)).with_for_update()
    losses = session.execute(statement).scalar_one_or_none()
    if losses is None:
        raise LeaseLost(job_id)
    hopeless = out_of_memory and _returned(session, job_id, error.code) + 1 >= MAX_MEMORY_LOSSES
    if losses + 1 < max_attempts and not hopeless:
        delay = _backoff(losses)
        message = f"{error.detail} It will be tried again."
        return _give_back(session, job_id, attempt, message, delay, losses=1, code=error.code)
    if _cancel_if_asked(session, job_id, attempt):
        return JobStatus.CANCELLED
    fail(session, job_id, attempt, error)
    return JobStatus.FAILED


def requeue_expired(session: Session, max_attempts: int, limit: int = 100) -> Requeued:
    """Take back up to `limit` jobs whose worker fell silent for a whole lease."""
    done = Requeued()
    expired = (
        select(Job.id, Job.attempt)
        .where(queue.status_is(JobStatus.RUNNING), Job.lease_until < now(session))
        .order_by(Job.lease_until)
        .limit(limit)
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
        claimed_at=now(session),
        lease_until=after(session, lease_seconds),
        started_at=func.coalesce(Job.started_at, now(session)),
    )
    if row is None:
        return None
    _tell(session, row.id, row.attempt, "job.started", "A worker took the job.", attempt=row.attempt)
    return ClaimedJob(**row._mapping)


def _end(session: Session, job_id: str, attempt: int, to: JobStatus, **values: Any) -> str:
    """Returns the job's tenant."""
    row = _leave(session, job_id, attempt, to, finished_at=now(session), **values)
    if row is None:
        raise LeaseLost(job_id)
    return str(row.tenant)


def _returned(session: Session, job_id: str, code: str) -> int:
    """How often the job went back to the queue for that reason."""
    statement = select(func.count()).where(
        Event.job_id == job_id, Event.type == "job.requeued", Event.data["code"].as_string() == code
    )
    return session.execute(statement).scalar_one()


def _give_back(
    session: Session, job_id: str, attempt: int, message: str, delay: float, *, losses: int, **data: Any
) -> JobStatus:
    row = _leave(
        session,
        job_id,
        attempt,
        JobStatus.QUEUED,
        Job.cancel_requested.is_(False),
        worker=None,
        available_at=after(session, delay),
        losses=Job.losses + losses,
    )
    if row is not None:
        _tell(session, job_id, attempt, "job.requeued", message, "warning" if losses else "info", **data)
        tally.count(session, "job_requeues", "lost" if losses else "orderly")
        return JobStatus.QUEUED
    # The flag only ever goes up, so what the first statement passed over is found by this one.
    if _cancel_if_asked(session, job_id, attempt):
        return JobStatus.CANCELLED
    raise LeaseLost(job_id)


def _cancel_if_asked(session: Session, job_id: str, attempt: int) -> bool:
    asked = Job.cancel_requested.is_(True)
    if _leave(session, job_id, attempt, JobStatus.CANCELLED, asked, finished_at=now(session)) is None:
        return False
    _tell(session, job_id, attempt, "job.cancelled", "The job was cancelled.")
    return True


def _leave(
    session: Session, job_id: str, attempt: int, to: JobStatus, *more: ColumnElement[bool], **values: Any
) -> Any:
    """Move a job out of its run; the time that the run took is kept and charged to the tenant."""
    took = quotas.run_seconds(session, job_id, attempt)
    values = {"lease_until": None, "run_seconds": Job.run_seconds + took, **values}
    row = _move(session, to, *_held(job_id, attempt), *more, **values)
    if row is not None:
        quotas.charge(session, row.tenant, took)
    return row


def _move(session: Session, to: JobStatus, *conditions: ColumnElement[bool], **values: Any) -> Any:
    """The only statement that changes a status: from one that the table of moves allows, or nothing."""
    sources = [status for status, following in TRANSITIONS.items() if to in following]
    if to in TERMINAL:
        values["sweep_at"] = now(session)  # the collector clears away what the run needed
    statement = (
        update(Job)
        .where(*conditions, Job.status.in_(sources))
        .values(status=to, version=Job.version + 1, updated_at=now(session), **values)
        .returning(
            Job.id, Job.attempt, Job.tenant, Job.spec, Job.spec_digest, Job.request_id, Job.trace_context
        )
        .execution_options(synchronize_session=False)
    )
    row = session.execute(statement).one_or_none()
    if row is not None and to in TERMINAL:
        tally.count(session, "jobs_finished", to.value)
    return row


def _need_uploads(session: Session, job: Job, wanted: Sequence[str | None]) -> None:
    """Keep the uploads until the job has ended. One that is not there is the run's to complain of."""
    ids = [one for one in wanted if one]
    if ids:
        present = select(literal(job.id), Upload.id).where(Upload.id.in_(ids), Upload.tenant == job.tenant)
        session.execute(insert(JobUpload).from_select(["job_id", "upload_id"], present))


def _backoff(losses: int) -> float:
    return float(min(BACKOFF_SECONDS * 2**losses, LONGEST_BACKOFF_SECONDS))


def _tell(
    session: Session, job_id: str, attempt: int, type: str, message: str, level: str = "info", /, **data: Any
) -> None:
    # Called after the job's row is locked by an UPDATE, so the ids of one job rise in commit order
    # and a client that resumes after an id misses nothing.
    if insert_event(session, job_id, attempt, type, level, message, data):
        outbox.announce_job(session, job_id, type)
