"""Events of a job: page by page, and as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from fastapi.sse import format_sse_event
from pydantic import BaseModel
from sqlalchemy import Row

from app.context import Context
from app.events import repository
from app.events.look import Look
from app.events.schemas import Event, EventList, ProgressMessage, StreamEnd
from app.jobs import repository as jobs
from app.jobs.service import progress_of
from app.jobs.watch import JobState
from app.problems import unknown_job
from models.event import Event as EventRow
from models.job import TERMINAL

STREAM_PAGE = 100


def page(context: Context, tenant: str, job_id: str, after: int, limit: int) -> EventList:
    """A page of events, the oldest first."""
    with context.database.session() as session:
        jobs.existing(session, tenant, job_id)
        rows = repository.page(session, job_id, after, limit + 1)
    return EventList(object="list", data=[_describe(row) for row in rows[:limit]], has_more=len(rows) > limit)


def look(context: Context, tenant: str, job_id: str, after: int) -> Look:
    """The job as it is, and the first of its events behind `after`."""
    with context.database.reading() as connection:
        job = jobs.shown(connection, tenant, job_id)
        if job is None:
            raise unknown_job(job_id)
        rows = repository.rows(connection, job_id, after, STREAM_PAGE)
    done = job.status in TERMINAL
    progress = ProgressMessage(status=job.status, attempt=job.attempt, progress=progress_of(job))
    return Look(
        job_id=job_id,
        version=job.version,
        done=done,
        events=b"".join(_message("event", _describe(row), row.id) for row in rows),
        count=len(rows),
        last_id=rows[-1].id if rows else None,
        progress=_message("progress", progress),
        end=_message("end", StreamEnd(status=job.status)) if done else b"",
    )


async def follow(
    context: Context, tenant: str, first: Look, after: int, heartbeat_seconds: float
) -> AsyncIterator[bytes]:
    """Events and progress as they come, written as messages, until the job has ended; b"" is a sign of life.

    It begins with `first`, which the caller has read to know that the job exists.
    """
    here, shown_progress = first, b""
    with context.watcher.watch(here.job_id) as watch:
        while True:
            after = here.last_id or after
            ends = here.done and here.count < STREAM_PAGE
            progress = b"" if here.progress == shown_progress else here.progress
            shown_progress = here.progress
            if chunk := here.events + progress + (here.end if ends else b""):
                yield chunk
            if ends:
                return
            if here.count < STREAM_PAGE:
                while not await watch.until(_is_newer_than(here.version), heartbeat_seconds):
                    if context.watcher.closed:
                        return
                    yield b""
            here = await context.looks.read(
                (tenant, here.job_id, after), partial(look, context, tenant, here.job_id, after)
            )


def _is_newer_than(version: int) -> Callable[[JobState], bool]:
    return lambda state: state.version > version


def _message(name: str, body: BaseModel, id: int | None = None) -> bytes:
    """One message of a stream; only an event has an id that a client may resume from."""
    number = None if id is None else str(id)
    return format_sse_event(data_str=body.model_dump_json(), event=name, id=number)


def _describe(row: EventRow | Row[Any]) -> Event:
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
