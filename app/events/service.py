"""Events of a job: page by page, and as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.context import Context
from app.events import repository
from app.events.look import Look
from app.events.schemas import Event, EventList, ProgressMessage, StreamEnd
from app.jobs import repository as jobs
from app.jobs.service import progress_of
from app.jobs.watch import JobState
from models.event import Event as EventRow

STREAM_PAGE = 100


@dataclass(frozen=True)
class Message:
    """One message of a stream; only an event has an id that a client may resume from."""

    name: str
    body: BaseModel
    id: int | None = None


def page(context: Context, tenant: str, job_id: str, after: int, limit: int) -> EventList:
    """A page of events, the oldest first."""
    with context.database.session() as session:
        rows = _look(session, tenant, job_id, after, limit + 1).events
    return EventList(object="list", data=[_describe(row) for row in rows[:limit]], has_more=len(rows) > limit)


def look(context: Context, tenant: str, job_id: str, after: int) -> Look:
    """The job as it is, and the first of its events behind `after`."""
    with context.database.session() as session:
        return _look(session, tenant, job_id, after, STREAM_PAGE)


async def follow(
    context: Context, tenant: str, first: Look, after: int, heartbeat_seconds: float
) -> AsyncIterator[Message | None]:
    """Events and progress as they come, until the job has ended; None is a sign of life.

    It begins with `first`, which the caller has read to know that the job exists.
    """
    here = first
    shown_progress = None
    with context.watcher.watch(here.job.id) as watch:
        while True:
            for row in here.events:
                yield Message("event", _describe(row), row.id)
                after = row.id
            progress = ProgressMessage(
                status=here.job.status, attempt=here.job.attempt, progress=progress_of(here.job)
            )
            if progress != shown_progress:
                yield Message("progress", progress)
                shown_progress = progress
            if len(here.events) < STREAM_PAGE:
                if here.job.done:
                    yield Message("end", StreamEnd(status=here.job.status))
                    return
                while not await watch.until(_is_newer_than(here.job.version), heartbeat_seconds):
                    if context.watcher.closed:
                        return
                    yield None
            here = await context.looks.read(
                (tenant, here.job.id, after), partial(look, context, tenant, here.job.id, after)
            )


def _is_newer_than(version: int) -> Callable[[JobState], bool]:
    return lambda state: state.version > version


def _look(session: Session, tenant: str, job_id: str, after: int, limit: int) -> Look:
    job = jobs.existing(session, tenant, job_id)
    return Look(job, repository.page(session, job_id, after, limit))


def _describe(row: EventRow) -> Event:
    return Event(
        id=row.id,
        object="event",
        job_id=row.job_id,
        attempt=row.attempt,
        type=row.type,
        level=row.level,
        message=row.message,
        data=row.data,
        created_at=row.created_at,
    )
