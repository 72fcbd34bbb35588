"""Queries for metrics. Each reads an index's part that holds the jobs not yet done, or the totals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from models import tally
from models.database import now
from models.job import Job, JobStatus, status_is
from models.queue import out_of_minutes


@dataclass(frozen=True)
class Queue:
    """The jobs that wait. `claimable` ones may start now, `held` ones when their tenant has minutes again.

    The others wait for their next try. `oldest` is of those that are not held.
    """

    queued: int
    claimable: int
    held: int
    oldest: datetime | None
    clock: datetime


@dataclass(frozen=True)
class Running:
    """A job that a worker holds."""

    lease_until: datetime | None
    progress: dict[str, Any] | None


def queue(session: Session, compute_minutes: float | None) -> Queue:
    """How many jobs wait, and since when the first of them could have started.

    Args:
        compute_minutes: Of tenants without a limit of their own.
    """
    clock = session.execute(select(now(session))).scalar_one()
    waiting = session.execute(by_tenant(clock)).all()
    held = out_of_minutes(session, compute_minutes)
    free = [row for row in waiting if row.tenant not in held]
    claimable = sum(row.due for row in free)
    return Queue(
        queued=sum(row.queued for row in waiting),
        claimable=claimable,
        held=sum(row.due for row in waiting) - claimable,
        oldest=min((row.oldest for row in free), default=None),
        clock=clock,
    )


def by_tenant(clock: datetime) -> Select[str, int, int, datetime]:
    """How many jobs of each tenant wait, how many could start, and since when; reads the queue's index."""
    due = Job.available_at <= clock
    return (
        select(
            Job.tenant,
            func.count().label("queued"),
            func.count().filter(due).label("due"),
            func.min(Job.available_at).label("oldest"),
        )
        .where(status_is(JobStatus.QUEUED))
        .group_by(Job.tenant)
    )


def running(session: Session) -> list[Running]:
    """One for every worker that is at work."""
    rows = session.execute(select(Job.lease_until, Job.progress).where(Job.status == JobStatus.RUNNING))
    return [Running(*row) for row in rows]


def totals(session: Session) -> dict[tally.Key, float]:
    """Everything that was ever counted."""
    return dict(tally.read(session))
