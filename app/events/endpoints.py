"""`/v1/jobs/{job_id}/events`: a list, or a stream of server-sent events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import JSONResponse, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse
from starlette.concurrency import run_in_threadpool

from app.auth import CurrentCaller, needs
from app.context import Service
from app.events import service
from app.events.schemas import EventList
from app.pages import Limit
from app.pointers import FieldProblem
from app.problems import InvalidRequest
from app.schemas import JobId
from models.api_key import Scope

router = APIRouter(prefix="/v1/jobs/{job_id}/events", tags=["events"], dependencies=[needs(Scope.JOBS)])

HEARTBEAT_SECONDS = 15.0
ADMISSION_SECONDS = 10.0
LARGEST_ID = 2**63 - 1


@router.get(
    "",
    operation_id="list_events",
    summary="List or follow the events of a job",
    response_model=EventList,
    responses={
        200: {
            "description": "A page of events, or a stream.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "The job has ended and `Last-Event-ID` is its last event: stop reconnecting."},
    },
)
async def list_events(
    context: Service,
    caller: CurrentCaller,
    job_id: JobId,
    after: Annotated[int, Query(ge=0, le=LARGEST_ID, description="Id of the last event that is known.")] = 0,
    limit: Limit = 100,
    accept: Annotated[str, Header(include_in_schema=False)] = "application/json",
    last_event_id: Annotated[
        str | None, Header(description="Sent by a client that reconnects; the stream goes on behind it.")
    ] = None,
) -> Response:
    """JSON, or with `Accept: text/event-stream` the events as they happen, until the job has ended.

    A stream has `event` messages (data: an Event; their id is the event's), `progress` messages
    (data: status, attempt, progress; no id) and, last of all, one `end` message (data: status).
    """
    if "text/event-stream" not in accept.lower():
        found = await run_in_threadpool(service.page, context, caller.tenant, job_id, after, limit)
        return JSONResponse(found.model_dump(mode="json"))
    behind = after if last_event_id is None else _event_id(last_event_id)
    first = await context.threads.read(service.look, context, caller.tenant, job_id, behind)
    if first.done and not first.count and last_event_id is not None:
        return Response(status_code=204)
    chunks = service.follow(context, caller.tenant, first, behind, HEARTBEAT_SECONDS)
    return EventSourceResponse(
        _admitted(chunks, partial(context.door.still_admits, caller)), headers={"X-Accel-Buffering": "no"}
    )


async def _admitted(
    chunks: AsyncIterator[bytes], is_admitted: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    """The stream, until a caller whose key was revoked is no longer to see it."""
    looked_at = time.monotonic()
    async for chunk in chunks:
        if time.monotonic() - looked_at >= ADMISSION_SECONDS:
            if not await is_admitted():
                return
            looked_at = time.monotonic()
        yield chunk or KEEPALIVE_COMMENT


def _event_id(header: str) -> int:
    if header.isascii() and header.isdigit() and int(header) <= LARGEST_ID:
        return int(header)
    problem = FieldProblem(
        parameter="Last-Event-ID",
        detail="This is no id of an event.",
        remedy="Give the id of the last event that came, or leave it out.",
    )
    raise InvalidRequest(problem.detail, remedy=problem.remedy, errors=[problem])
