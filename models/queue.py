"""Whose turn it is: the order in which queued jobs are taken, at a cost that does not grow with them.

Highest priority first, then the tenant with the fewest running, then the oldest job; tenants that run as
many as they may, or have used up their minutes, are passed over: their jobs stay as they are and are taken
when there is room again. Who has begun goes on, so that no work is lost; a tenant may overdraw its minutes by
what its running jobs still take. A tenant has a queue for each device that its jobs are meant for, and a
worker looks at those of its own devices. Only the head of a queue can be next, so the heads are compared,
one index probe each: the cost grows with the tenants that wait, not with their jobs. (Jobs that back off
after a lost worker stand in the same index and are stepped over; there are never more of them than
workers that died in ten minutes.)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    ScalarSelect,
    Select,
    Subquery,
    func,
    literal,
    not_,
    or_,
    select,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute, Session

from models import minutes
from models.database import now
from models.job import Job, JobStatus
from models.job import status_is as status_is
from models.quota import TenantQuota, running_limit_or
from models.spec import DEVICES

MOST_COUNTED = 1000


def queues_in_turn(
    session: Session,
    running_limit: int | None = None,
    devices: Collection[str] = DEVICES,
    *,
    compute_minutes: float | None = None,
) -> list[tuple[str, str]]:
    """Tenant and device of the queues that have a job to be taken now, the one whose turn it is first.

    Tenants that run as many as they may, or have used up their minutes, are left out; `running_limit` and
    `compute_minutes` are for those without own ones.
    """
    if not devices:
        return []
    heads = _heads(session, running_limit, compute_minutes, devices)
    in_turn = select(heads.c.tenant, heads.c.device).order_by(
        heads.c.priority.desc(), heads.c.running, heads.c.created_at, heads.c.tenant, heads.c.device
    )
    return [(tenant, device) for tenant, device in session.execute(in_turn)]


def take_head(session: Session, tenant: str, device: str) -> str | None:
    """Lock the queue's first job that nobody else is taking; None if there is none.

    Postgres passes over the rows that other workers hold; on SQLite there is one writer at a time.
    """
    head = _in_order(select(Job.id), session, tenant, device).limit(1).with_for_update(skip_locked=True)
    return session.scalars(head).one_or_none()


def claimable(
    session: Session,
    most: int = MOST_COUNTED,
    *,
    running_limit: int | None = None,
    compute_minutes: float | None = None,
    devices: Collection[str] = DEVICES,
) -> int:
    """How many jobs wait for a worker now, counted up to `most`; none of tenants that may run no more."""
    left = most
    for tenant, device in queues_in_turn(session, running_limit, devices, compute_minutes=compute_minutes):
        if left == 0:
            break
        waiting = _in_order(select(Job.id), session, tenant, device).limit(left).subquery()
        left -= session.execute(select(func.count()).select_from(waiting)).scalar_one()
    return most - left


def out_of_minutes(session: Session, compute_minutes: float | None = None) -> set[str]:
    """The tenants whose queued jobs wait because their minutes are used up."""
    waiting = _waiting_tenants()
    held = (
        select(waiting.c.tenant)
        .outerjoin(TenantQuota, TenantQuota.tenant == waiting.c.tenant)
        .where(waiting.c.tenant.is_not(None), minutes.used_up(session, waiting.c.tenant, compute_minutes))
    )
    return set(session.scalars(held))


def _heads(
    session: Session, running_limit: int | None, compute_minutes: float | None, devices: Collection[str]
) -> Subquery:
    """The first job of each queue of tenants that may run one more, with how many the tenant runs."""
    waiting = _waiting_tenants()
    heads = union_all(
        *(
            select(
                waiting.c.tenant,
                literal(device).label("device"),
                _of_head(session, waiting, device, Job.priority).label("priority"),
                _of_head(session, waiting, device, Job.created_at).label("created_at"),
                _running(waiting).label("running"),
            ).where(waiting.c.tenant.is_not(None))
            for device in devices
        )
    ).subquery()
    limit = running_limit_or(running_limit)
    return (
        select(heads)
        .outerjoin(TenantQuota, TenantQuota.tenant == heads.c.tenant)
        .where(
            heads.c.created_at.is_not(None),
            or_(limit.is_(None), heads.c.running < limit),
            not_(minutes.used_up(session, heads.c.tenant, compute_minutes)),
        )
        .subquery()
    )


def _waiting_tenants() -> CTE:
    """Each tenant once, by jumping through the index from one to the next; the last row is null."""
    waiting = select(_next_tenant().label("tenant")).cte("waiting", recursive=True)
    following = _next_tenant(Job.tenant > waiting.c.tenant)
    return waiting.union_all(select(following).where(waiting.c.tenant.is_not(None)))


def _next_tenant(*behind: ColumnElement[bool]) -> ScalarSelect[str]:
    # In the whole order of the queue's index, so that no other one is taken: in that of the lists
    # the ended jobs of a tenant stand before the queued ones.
    query = select(Job.tenant).where(status_is(JobStatus.QUEUED), *behind)
    in_order = query.order_by(Job.tenant, Job.device, Job.priority.desc(), Job.created_at, Job.id)
    return in_order.limit(1).correlate_except(Job).scalar_subquery()


def _of_head(
    session: Session, waiting: CTE, device: str, column: InstrumentedAttribute[Any]
) -> ScalarSelect[Any]:
    head = _in_order(select(column), session, waiting.c.tenant, device).limit(1)
    return head.correlate(waiting).scalar_subquery()


def _in_order(query: Select[Any], session: Session, tenant: Any, device: str) -> Select[Any]:
    return query.where(
        status_is(JobStatus.QUEUED),
        Job.tenant == tenant,
        Job.device == device,
        Job.available_at <= now(session),
    ).order_by(Job.priority.desc(), Job.created_at, Job.id)


def _running(waiting: CTE) -> ScalarSelect[int]:
    return (
        select(func.count())
        .where(status_is(JobStatus.RUNNING), Job.tenant == waiting.c.tenant)
        .correlate(waiting)
        .scalar_subquery()
    )
