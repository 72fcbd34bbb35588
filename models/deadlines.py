"""What the reaper ends because its time is over: jobs that never began, runs that never end."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import lifecycle, queue
from models.database import after, now
from models.job import Job, JobStatus, status_is
from models.lifecycle import JobError

BATCH = 100


def expire_queued(
    session: Session, queue_hours: float, *, compute_minutes: float | None = None, limit: int = BATCH
) -> list[str]:
    """Fail the jobs that were not begun within `queue_hours` of their creation. Returns their ids.

    One that has run before is not among them: it waits for its next attempt. `compute_minutes` is the limit
    of tenants without an own one: who has used it up is told so.
    """
    overdue = (
        select(Job.id, Job.tenant)
        .where(
            status_is(JobStatus.QUEUED),
            Job.created_at < after(session, -queue_hours * 3600),
            Job.started_at.is_(None),
        )
        .order_by(Job.created_at)
        .limit(limit)
    )
    rows = session.execute(overdue.with_for_update(skip_locked=True)).all()
    held = queue.out_of_minutes(session, compute_minutes) if rows else set()
    return [
        row.id
        for row in rows
        if lifecycle.fail_queued(session, row.id, _not_begun(queue_hours, row.tenant in held))
    ]


def stop_overdue(session: Session, *, factor: float, extra_minutes: float) -> list[str]:
    """Fail the runs that take much longer than their budget. Returns the ids of their jobs.

    The engine keeps to the budget by itself; a run that hangs while its supervisor's heart beats is
    ended here: the next heartbeat finds the lease gone and kills the process. Running jobs are as
    few as the workers, so all are looked at.
    """
    moment = session.execute(select(now(session))).scalar_one()
    running = select(Job.id, Job.attempt, Job.claimed_at, Job.spec).where(status_is(JobStatus.RUNNING))
    overdue = [
        (row.id, row.attempt, minutes)
        for row in session.execute(running)
        if _is_over(row.claimed_at, minutes := _allowed(row.spec, factor, extra_minutes), moment)
    ]
    return [job_id for job_id, attempt, minutes in overdue if _stop(session, job_id, attempt, minutes)]


def _not_begun(queue_hours: float, out_of_minutes: bool) -> JobError:
    why = ": the tenant's minutes of runs are used up" if out_of_minutes else ""
    return JobError(
        code="queue_expired",
        detail=f"No worker took the job within {queue_hours:g} hours{why}.",
        remedy="Wait until minutes are free again (GET /v1/quota), or ask the operator for more."
        if out_of_minutes
        else "Ask the operator whether workers run, then submit the job again.",
        retryable=True,
    )


def _allowed(spec: dict[str, object], factor: float, extra_minutes: float) -> float:
    budget = spec.get("budget")
    minutes = budget.get("max_minutes") if isinstance(budget, dict) else None
    return float(minutes or 0.0) * factor + extra_minutes


def _is_over(claimed_at: datetime | None, minutes: float, moment: datetime) -> bool:
    return claimed_at is not None and moment - claimed_at > timedelta(minutes=minutes)


def _stop(session: Session, job_id: str, attempt: int, minutes: float) -> bool:
    error = JobError(
        code="max_runtime_exceeded",
        detail=f"The run did not end within {minutes:g} minutes, much more than its budget.",
        remedy="Submit the job again; if it happens again, give its id to the operator.",
        pointer="/budget/max_minutes",
    )
    try:
        lifecycle.fail(session, job_id, attempt, error)
    except lifecycle.LeaseLost:
        return False  # it ended by itself, or another reaper was faster
    return True
