"""`/v1/jobs`: create, read, list, cancel, delete."""

from __future__ import annotations

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from app.auth import CurrentCaller, needs
from app.bodies import read_document, validated
from app.conditions import none_match, preferred_wait
from app.context import Context, Service, Tenant
from app.idempotency.service import Idempotent
from app.jobs import service
from app.jobs.examples import JOB_EXAMPLES
from app.jobs.repository import JobFilter
from app.jobs.schemas import Job, JobList, Plan
from app.moments import Moment
from app.pages import Cursor, Limit
from app.schemas import JobId
from models.api_key import Scope
from models.job import JobStatus
from models.spec import JobSpec

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[needs(Scope.JOBS)])

SPEC_SCHEMA = {"$ref": "#/components/schemas/JobSpec"}
ETAG_HEADER = {"ETag": {"schema": {"type": "string"}, "description": "Version of the job."}}
JOB_HEADERS: dict[str, Any] = {
    **ETAG_HEADER,
    "Location": {"schema": {"type": "string"}, "description": "Path of the job."},
    "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds until a look is worthwhile."},
}


@router.post(
    "",
    operation_id="create_job",
    summary="Create a job",
    status_code=202,
    response_model=Job,
    responses={
        202: {"description": "The job is queued.", "headers": JOB_HEADERS},
        200: {"description": "`dry_run`: the spec is good, nothing was created.", "model": Plan},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": SPEC_SCHEMA, "examples": JOB_EXAMPLES},
                "application/yaml": {"schema": SPEC_SCHEMA},
            },
        }
    },
)
async def create_job(
    request: Request,
    context: Service,
    caller: CurrentCaller,
    idempotency: Idempotent,
    dry_run: Annotated[bool, Query(description="Validate and plan only; nothing is created.")] = False,
) -> Response:
    """Store a job and queue it. The body is a job spec, as JSON or YAML."""
    document = await read_document(request, context.api.spec_max_bytes)
    spec = validated(JobSpec, document)
    if dry_run:
        plan = await run_in_threadpool(service.plan, context, caller, spec)
        return JSONResponse(plan.model_dump(mode="json"))
    answer = await context.threads.write(service.create, context, caller, spec, idempotency)
    structlog.contextvars.bind_contextvars(job_id=answer.headers["Location"].rsplit("/", 1)[-1])
    return answer.response()


@router.get("", operation_id="list_jobs", summary="List jobs")
def list_jobs(
    context: Service,
    tenant: Tenant,
    cursor: Cursor = None,
    limit: Limit = 20,
    status: Annotated[list[JobStatus] | None, Query(description="Any of these; repeatable.")] = None,
    name: Annotated[str | None, Query(max_length=100, description="Exactly this name.")] = None,
    created_after: Annotated[Moment | None, Query(description="RFC 3339; UTC without a zone.")] = None,
    created_before: Annotated[Moment | None, Query(description="RFC 3339; UTC without a zone.")] = None,
) -> JobList:
    """The jobs that fit, the newest first."""
    narrowed = JobFilter(
        statuses=tuple(status or ()),
        name=name,
        created_after=created_after,
        created_before=created_before,
    )
    return service.page(context, tenant, narrowed, cursor, limit)


@router.get(
    "/{job_id}",
    operation_id="get_job",
    summary="Get a job",
    response_model=Job,
    responses={
        200: {"description": "The job.", "headers": ETAG_HEADER},
        304: {"description": "The job is as `If-None-Match` knows it."},
    },
)
async def get_job(
    context: Service,
    tenant: Tenant,
    job_id: JobId,
    if_none_match: Annotated[str | None, Header(description="ETag that the client has.")] = None,
    prefer: Annotated[
        str | None,
        Header(
            description="`wait=N` holds the answer back for up to N seconds (at most 60) until the job "
            "is done, or, with `If-None-Match`, until it has changed."
        ),
    ] = None,
) -> Response:
    """The job as it is now, or as soon as it has changed."""
    seconds = preferred_wait(prefer, context.api.max_wait_seconds)
    if seconds:
        before = await context.threads.read(service.state, context, tenant, job_id)
        if not before.done:
            await _wait(context, job_id, before.version, if_none_match, seconds)
    answer = await context.threads.read(_current, context, tenant, job_id, if_none_match)
    if seconds:
        answer.headers["Preference-Applied"] = f"wait={seconds:g}"
    return answer


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    response_model=Job,
    responses={
        200: {"description": "The job is cancelled.", "headers": ETAG_HEADER},
        202: {"description": "The run was asked to stop.", "model": Job, "headers": ETAG_HEADER},
    },
)
def cancel_job(context: Service, caller: CurrentCaller, job_id: JobId, idempotency: Idempotent) -> Response:
    """Stop a job; asking again changes nothing. 409 `job_done` if it ended otherwise."""
    return service.cancel(context, caller, job_id, idempotency).response()


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Delete a job",
    status_code=204,
    response_class=Response,
)
def delete_job(context: Service, caller: CurrentCaller, job_id: JobId) -> None:
    """Delete a job that is done, with its events, candidates and files. 409 `job_not_done` before."""
    service.delete(context, caller, job_id)


def _current(context: Context, tenant: str, job_id: str, if_none_match: str | None) -> Response:
    if if_none_match is not None:
        # Most who know a version know the current one: that is found out without the documents.
        etag = service.etag(service.state(context, tenant, job_id).version)
        if not none_match(if_none_match, etag):
            return Response(status_code=304, headers={"ETag": etag})
    return service.answer_of(context, *service.get(context, tenant, job_id)).response()


async def _wait(
    context: Context, job_id: str, version: int, if_none_match: str | None, seconds: float
) -> None:
    with context.watcher.watch(job_id) as watch:
        if if_none_match is None:
            await watch.until(lambda state: state.done, seconds)
        elif not none_match(if_none_match, service.etag(version)):
            await watch.until(lambda state: state.version > version, seconds)
