"""Queries for metrics. Each reads an index's part that holds the jobs not yet done, or the totals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models import tally
from models.database import now
from models.job import Job, JobStatus


@dataclass(frozen=True)
class Queue:
    """The jobs that wait. `claimable` ones may start now; the others wait for their next try."""

    queued: int
    claimable: int
    oldest: datetime | None
    clock: datetime


@dataclass(frozen=True)
class Running:
    """A job that a worker holds."""

    lease_until: datetime | None
    progress: dict[str, Any] | None


def queue(session: Session) -> Queue:
    """How many jobs wait, and since when the first of them could have started."""
    clock = session.execute(select(now(session))).scalar_one()
    due = Job.available_at <= clock
    row = session.execute(
        select(func.count(), func.count().filter(due), func.min(Job.available_at)).where(
            Job.status == JobStatus.QUEUED
        )
    ).one()
    return Queue(row[0], row[1], row[2], clock)


def running(session: Session) -> list[Running]:
    """One for every worker that is at work."""
    rows = session.execute(select(Job.lease_until, Job.progress).where(Job.status == JobStatus.RUNNING))
    return [Running(*row) for row in rows]


def totals(session: Session) -> dict[tally.Key, float]:
    """Everything that was ever counted."""
    return dict(tally.read(session))
