"""`/v1/jobs`: create, read, list, cancel."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from app.bodies import read_document
from app.conditions import none_match, preferred_wait
from app.context import Context, Service, Tenant
from app.jobs import service
from app.jobs.examples import JOB_EXAMPLES
from app.jobs.repository import JobFilter
from app.jobs.schemas import Job, JobList, Plan
from app.pages import Cursor, Limit
from app.schemas import JobId
from models.job import JobStatus

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

SPEC_SCHEMA = {"$ref": "#/components/schemas/JobSpec"}
ETAG_HEADER = {"ETag": {"schema": {"type": "string"}, "description": "Version of the job."}}
JOB_HEADERS: dict[str, Any] = {
    **ETAG_HEADER,
    "Location": {"schema": {"type": "string"}, "description": "Path of the job."},
    "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds until a look is worthwhile."},
}
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="The same key and spec give the same job, however often they are sent.",
    ),
]


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
    tenant: Tenant,
    idempotency_key: IdempotencyKey = None,
    dry_run: Annotated[bool, Query(description="Validate and plan only; nothing is created.")] = False,
) -> Response:
    """Store a job and queue it. The body is a job spec, as JSON or YAML."""
    document = await read_document(request, context.api.spec_max_bytes)
    spec = service.read_spec(document)
    if dry_run:
        plan = await run_in_threadpool(service.plan, context, tenant, spec)
        return JSONResponse(plan.model_dump(mode="json"))
    created = await run_in_threadpool(service.create, context, tenant, spec, idempotency_key)
    answer = _answer(context, created.job, created.version, status=202)
    answer.headers["Location"] = created.job.links.self
    if created.replayed:
        answer.headers["Idempotency-Replayed"] = "true"
    return answer


@router.get("", operation_id="list_jobs", summary="List jobs")
def list_jobs(
    context: Service,
    tenant: Tenant,
    cursor: Cursor = None,
    limit: Limit = 20,
    status: Annotated[list[JobStatus] | None, Query(description="Any of these; repeatable.")] = None,
    name: Annotated[str | None, Query(max_length=100, description="Exactly this name.")] = None,
    created_after: Annotated[datetime | None, Query(description="RFC 3339; UTC without a zone.")] = None,
    created_before: Annotated[datetime | None, Query(description="RFC 3339; UTC without a zone.")] = None,
) -> JobList:
    """The jobs that fit, the newest first."""
    narrowed = JobFilter(
        statuses=tuple(status or ()),
        name=name,
        created_after=_in_utc(created_after),
        created_before=_in_utc(created_before),
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
    job, version = await run_in_threadpool(service.get, context, tenant, job_id)
    seconds = preferred_wait(prefer, context.api.max_wait_seconds)
    if seconds and not job.done:
        await _wait(context, job_id, version, if_none_match, seconds)
        job, version = await run_in_threadpool(service.get, context, tenant, job_id)
    answer = (
        _answer(context, job, version)
        if none_match(if_none_match, _etag(version))
        else Response(status_code=304, headers={"ETag": _etag(version)})
    )
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
def cancel_job(context: Service, tenant: Tenant, job_id: JobId) -> Response:
    """Stop a job; asking again changes nothing. 409 `job_done` if it ended otherwise."""
    job, version = service.cancel(context, tenant, job_id)
    return _answer(context, job, version, status=200 if job.done else 202)


async def _wait(
    context: Context, job_id: str, version: int, if_none_match: str | None, seconds: float
) -> None:
    with context.watcher.watch(job_id) as watch:
        if if_none_match is None:
            await watch.until(lambda state: state.done, seconds)
        elif not none_match(if_none_match, _etag(version)):
            await watch.until(lambda state: state.version > version, seconds)


def _answer(context: Context, job: Job, version: int, *, status: int = 200) -> Response:
    headers = {"ETag": _etag(version)}
    if not job.done:
        headers["Retry-After"] = str(context.api.retry_after_seconds)
    return JSONResponse(job.model_dump(mode="json"), status_code=status, headers=headers)


def _etag(version: int) -> str:
    return f'"{version}"'


def _in_utc(moment: datetime | None) -> datetime | None:
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
