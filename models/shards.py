"""The life of a job's shares as guarded statements: put out, take, claim, heartbeat, finish, give back.

Like those of `models.lifecycle` they run inside the caller's `Database.transaction()`. The job's own run
takes shares under the job's lease; helpers, which are workers without a job, take them under leases of
their own. Nothing here changes the job, so that a job with helpers looks like any other. All statements
that change more than one share lock the job's row first, so that they meet in one order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, delete, exists, func, literal, or_, select, update
from sqlalchemy.orm import Session

from models import queue, quotas
from models.database import after, now
from models.job import TERMINAL, Job, JobStatus
from models.lifecycle import LeaseLost
from models.shard import Shard, ShardStatus
from models.spec import DEVICES

MOST_FAILURES = 3  # of helpers at a stage; after these its job's run does all that is left by itself
MOST_JOBS = 100  # looked at for work to help with


@dataclass(frozen=True)
class ClaimedShard:
    """What a helper needs to do a share. `attempt` is its fencing token."""

    job_id: str
    stage: str
    number: int
    attempt: int
    holder: str
    payload: dict[str, Any]
    tenant: str
    spec: dict[str, Any]
    request_id: str | None = None
    trace_context: dict[str, str] | None = None


@dataclass(frozen=True)
class Result:
    """What a share gave, and the helper that did it; none: the job's own run."""

    value: dict[str, Any]
    holder: str | None


def put_out(
    session: Session,
    job_id: str,
    attempt: int,
    stage: str,
    payloads: Sequence[dict[str, Any]],
    *,
    helpers: int,
) -> None:
    """Offer a stage's shares, as the run that holds the job. Raises LeaseLost.

    If an earlier attempt offered the same, what is done stays done, and helpers go on with theirs.
    """
    _lock_held(session, job_id, attempt)
    of_stage = and_(Shard.job_id == job_id, Shard.stage == stage)
    known = session.scalars(select(Shard.payload).where(of_stage).order_by(Shard.number)).all()
    if list(known) == list(payloads):
        own = and_(of_stage, Shard.status == ShardStatus.RUNNING, Shard.holder.is_(None))
        _change(session, own, status=ShardStatus.WAITING, helpers=helpers)
        return
    session.execute(delete(Shard).where(of_stage).execution_options(synchronize_session=False))
    session.add_all(
        Shard(job_id=job_id, stage=stage, number=number, payload=payload, helpers=helpers)
        for number, payload in enumerate(payloads)
    )


def take(session: Session, job_id: str, attempt: int, stage: str) -> int | None:
    """The number of a share for the job's own run: one that nobody has, else one that no helper began yet.

    None: all are done, or helpers are at work on the rest. Raises LeaseLost.
    """
    _lock_held(session, job_id, attempt)
    not_begun = and_(Shard.status == ShardStatus.RUNNING, Shard.begun.is_(False), Shard.holder.is_not(None))
    for free in (_free(session), not_begun):
        first = _first(and_(Shard.job_id == job_id, Shard.stage == stage, free))
        number = session.execute(first.with_only_columns(Shard.number)).scalar_one_or_none()
        which = and_(Shard.job_id == job_id, Shard.stage == stage, Shard.number == number, free)
        values = {"holder": None, "begun": True, "claimed_at": now(session), "lease_until": None}
        if number is not None and _take(session, which, **values) is not None:
            return number
    return None


def finish_own(
    session: Session, job_id: str, attempt: int, stage: str, number: int, result: dict[str, Any]
) -> None:
    """Keep what the job's own run made of a share, whoever else may be at it. Raises LeaseLost."""
    _lock_held(session, job_id, attempt)
    which = and_(
        Shard.job_id == job_id,
        Shard.stage == stage,
        Shard.number == number,
        Shard.status != ShardStatus.DONE,
    )
    _change(session, which, status=ShardStatus.DONE, result=result, holder=None, lease_until=None)


def results(session: Session, job_id: str, stage: str) -> dict[int, Result]:
    """What is done of a stage, by the shares' numbers."""
    done = select(Shard.number, Shard.result, Shard.holder).where(
        Shard.job_id == job_id, Shard.stage == stage, Shard.status == ShardStatus.DONE
    )
    return {row.number: Result(row.result, row.holder) for row in session.execute(done)}


def clear(session: Session, job_id: str, attempt: int, stage: str) -> None:
    """Take a stage's shares back: its run has all results. Raises LeaseLost."""
    _lock_held(session, job_id, attempt)
    gone = delete(Shard).where(Shard.job_id == job_id, Shard.stage == stage)
    session.execute(gone.execution_options(synchronize_session=False))


def claim(
    session: Session,
    holder: str,
    lease_seconds: float,
    *,
    running_limit: int | None = None,
    devices: Collection[str] = DEVICES,
) -> ClaimedShard | None:
    """Take a share of the first job that wants help, as a worker of `devices` that has no job of its own.

    The work of a tenant that runs as many as it may, jobs and helpers together, is passed over.
    """
    for job_id in _wanting(session, devices):
        claimed = _claim(session, job_id, holder, lease_seconds, running_limit, begun=False)
        if claimed is not None:
            return claimed
    return None


def held(session: Session, job_id: str, holder: str) -> ClaimedShard | None:
    """The share of the job that a helper holds."""
    columns = Shard.stage, Shard.number, Shard.attempt, Shard.holder, Shard.payload
    origin = Job.tenant, Job.spec, Job.request_id, Job.trace_context
    row = session.execute(
        select(*columns, *origin).join(Job, Job.id == Shard.job_id).where(_of_helper(job_id, holder))
    ).one_or_none()
    return None if row is None else ClaimedShard(job_id, *row)


def begin(session: Session, shard: ClaimedShard) -> bool:
    """Tell that a helper computes from now on. False: the job's run took the share back meanwhile."""
    return _change(session, and_(*_held(shard)), begun=True) == 1


def heartbeat(session: Session, job_id: str, holder: str, lease_seconds: float) -> bool:
    """Extend the helper's lease. False: it has no share of the job any more, or the job is to end."""
    alive = exists().where(
        Job.id == Shard.job_id, Job.status.not_in(TERMINAL), Job.cancel_requested.is_(False)
    )
    which = and_(_of_helper(job_id, holder), alive)
    return _change(session, which, lease_until=after(session, lease_seconds)) > 0


def finish(session: Session, shard: ClaimedShard, result: dict[str, Any]) -> bool:
    """Keep a helper's result and charge its time to the tenant. False: the share is no longer its own."""
    _lock(session, shard.job_id)
    row = session.execute(select(Shard.claimed_at, now(session)).where(*_held(shard))).one_or_none()
    done = {"status": ShardStatus.DONE, "result": result, "lease_until": None}
    if row is None or _change(session, and_(*_held(shard)), **done) == 0:
        return False
    claimed_at, moment = row
    assert claimed_at is not None
    quotas.charge(session, shard.tenant, max(0.0, (moment - claimed_at).total_seconds()))
    return True


def claim_next(
    session: Session,
    shard: ClaimedShard,
    lease_seconds: float,
    *,
    running_limit: int | None = None,
    compute_minutes: float | None = None,
    devices: Collection[str] = DEVICES,
) -> ClaimedShard | None:
    """Another share of the same stage for a helper that is warm, unless a job waits for a worker.

    `running_limit` and `compute_minutes` are those of tenants without own ones.
    """
    _lock(session, shard.job_id)
    if queue.claimable(
        session, 1, running_limit=running_limit, compute_minutes=compute_minutes, devices=devices
    ):
        return None
    of_stage = Shard.stage == shard.stage
    return _claim(session, shard.job_id, shard.holder, lease_seconds, running_limit, of_stage, begun=True)


def give_back(session: Session, job_id: str, holder: str, *, failed: bool) -> int:
    """Let others have what a helper holds. Returns how many shares that were."""
    _lock(session, job_id)
    return _change(
        session,
        _of_helper(job_id, holder),
        status=ShardStatus.WAITING,
        holder=None,
        lease_until=None,
        failures=Shard.failures + int(failed),
    )


def claimable(
    session: Session,
    most: int = queue.MOST_COUNTED,
    *,
    running_limit: int | None = None,
    devices: Collection[str] = DEVICES,
) -> int:
    """How many helpers could begin now, counted up to `most`."""
    wanted = 0
    for job_id in _wanting(session, devices):
        tenant = session.execute(select(Job.tenant).where(Job.id == job_id)).scalar_one_or_none()
        if tenant is not None and _tenant_may(session, tenant, running_limit):
            shares = select(func.count()).where(Shard.job_id == job_id, _free(session))
            wanted += min(session.execute(shares).scalar_one(), _free_seats(session, job_id))
    return min(wanted, most)


def _wanting(session: Session, devices: Collection[str]) -> list[str]:
    """Running jobs with a share that a helper may take, in the order that jobs are taken."""
    # Two statements: the shares are few, and no planner shall begin with the jobs, which may be many.
    done = literal(ShardStatus.DONE, Shard.status.type, literal_execute=True)  # for the partial index
    offered = select(Shard.job_id).where(Shard.status != done, _free(session), Shard.helpers > 0).distinct()
    ids = session.scalars(offered.limit(MOST_JOBS)).all()
    if not ids:
        return []
    wanting = (
        select(Job.id)
        .where(
            Job.id.in_(ids),
            Job.status == JobStatus.RUNNING,
            Job.cancel_requested.is_(False),
            Job.device.in_(devices),
        )
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
    )
    return [job_id for job_id in session.scalars(wanting) if _free_seats(session, job_id) > 0]


def _claim(
    session: Session,
    job_id: str,
    holder: str,
    lease_seconds: float,
    running_limit: int | None,
    *narrowed: ColumnElement[bool],
    begun: bool,
) -> ClaimedShard | None:
    wanted = select(Job.tenant, Job.spec, Job.request_id, Job.trace_context).where(
        Job.id == job_id, Job.status == JobStatus.RUNNING, Job.cancel_requested.is_(False)
    )
    job = session.execute(wanted.with_for_update()).one_or_none()
    if job is None:
        return None
    quotas.one_at_a_time(session, f"running_jobs:{job.tenant}")
    if _free_seats(session, job_id) < 1 or not _tenant_may(session, job.tenant, running_limit):
        return None
    free = _free(session)
    first = session.execute(_first(and_(Shard.job_id == job_id, free, *narrowed))).one_or_none()
    if first is None:
        return None
    which = and_(Shard.job_id == job_id, Shard.stage == first.stage, Shard.number == first.number, free)
    values = {"holder": holder, "begun": begun, "claimed_at": now(session)}
    row = _take(session, which, lease_until=after(session, lease_seconds), **values)
    if row is None:
        return None
    return ClaimedShard(job_id, row.stage, row.number, row.attempt, holder, row.payload, *job)


def _take(session: Session, which: ColumnElement[bool], **values: Any) -> Any:
    """Claim a share; if that takes it from a helper whose lease ran out, the helper has failed."""
    lost = and_(Shard.status == ShardStatus.RUNNING, Shard.lease_until < now(session))
    statement = (
        update(Shard)
        .where(which)
        .values(
            status=ShardStatus.RUNNING,
            attempt=Shard.attempt + 1,
            failures=Shard.failures + case((lost, 1), else_=0),
            **values,
        )
        .returning(Shard.stage, Shard.number, Shard.attempt, Shard.payload)
        .execution_options(synchronize_session=False)
    )
    return session.execute(statement).one_or_none()


def _free(session: Session) -> ColumnElement[bool]:
    """Nobody holds it, or the helper that does fell silent for a whole lease."""
    return or_(
        Shard.status == ShardStatus.WAITING,
        and_(Shard.status == ShardStatus.RUNNING, Shard.lease_until < now(session)),
    )


def _first(which: ColumnElement[bool]) -> Select[str, int]:
    return select(Shard.stage, Shard.number).where(which).order_by(Shard.stage, Shard.number).limit(1)


def _free_seats(session: Session, job_id: str) -> int:
    """How many more may help the job now; none once helpers have failed too often."""
    told = session.execute(
        select(func.max(Shard.helpers), func.sum(Shard.failures)).where(Shard.job_id == job_id)
    ).one()
    if told[0] is None or told[1] >= MOST_FAILURES:
        return 0
    return int(told[0]) - _helping(session, Shard.job_id == job_id)


def _tenant_may(session: Session, tenant: str, default: int | None) -> bool:
    """Whether one more worker may work for the tenant."""
    limit = quotas.running_limit(session, tenant, default)
    if limit is None:
        return True
    of_tenant = Shard.job_id.in_(
        select(Job.id).where(Job.tenant == tenant, queue.status_is(JobStatus.RUNNING))
    )
    return quotas.active_jobs(session, tenant, JobStatus.RUNNING) + _helping(session, of_tenant) < limit


def _helping(session: Session, which: ColumnElement[bool]) -> int:
    """Helpers at work, those whose leases hold."""
    at_work = select(func.count(Shard.holder.distinct())).where(
        which, Shard.status == ShardStatus.RUNNING, Shard.lease_until >= now(session)
    )
    return session.execute(at_work).scalar_one()


def _held(shard: ClaimedShard) -> tuple[ColumnElement[bool], ...]:
    return (
        _of_helper(shard.job_id, shard.holder),
        Shard.stage == shard.stage,
        Shard.number == shard.number,
        Shard.attempt == shard.attempt,
    )


def _of_helper(job_id: str, holder: str) -> ColumnElement[bool]:
    return and_(Shard.job_id == job_id, Shard.holder == holder, Shard.status == ShardStatus.RUNNING)


def _lock(session: Session, job_id: str) -> None:
    session.execute(select(Job.id).where(Job.id == job_id).with_for_update())


def _lock_held(session: Session, job_id: str, attempt: int) -> None:
    held = select(Job.id).where(Job.id == job_id, Job.attempt == attempt, Job.status == JobStatus.RUNNING)
    if session.execute(held.with_for_update()).one_or_none() is None:
        raise LeaseLost(job_id)


def _change(session: Session, which: ColumnElement[bool], **values: Any) -> int:
    """Update shares. Returns how many."""
    statement = update(Shard).where(which).values(**values).returning(Shard.number)
    return len(session.execute(statement.execution_options(synchronize_session=False)).all())
