"""`/v1/jobs/{job_id}/candidates`: what the search measured, and the export of one that was not delivered."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from app.auth import CurrentCaller, needs
from app.candidates import service
from app.candidates.schemas import Candidate, CandidateList
from app.context import Service, Tenant
from app.idempotency.service import Idempotent
from app.jobs.endpoints import JOB_HEADERS
from app.jobs.schemas import Job
from app.pages import Limit
from app.schemas import JobId
from models.api_key import Scope

router = APIRouter(
    prefix="/v1/jobs/{job_id}/candidates", tags=["candidates"], dependencies=[needs(Scope.JOBS)]
)

LARGEST_NUMBER = 2**31 - 1
Number = Annotated[int, Path(ge=0, le=LARGEST_NUMBER)]


@router.get("", operation_id="list_candidates", summary="List the candidates of a job")
def list_candidates(
    context: Service,
    tenant: Tenant,
    job_id: JobId,
    after: Annotated[
        int | None, Query(ge=-1, le=LARGEST_NUMBER, description="Number of the last one that is known.")
    ] = None,
    limit: Limit = 50,
    accepted: Annotated[bool | None, Query(description="Only those accepted, or only those refused.")] = None,
    front: Annotated[bool, Query(description="Only the Pareto front of accuracy, size and latency.")] = False,
) -> CandidateList:
    """The candidates measured so far, by number."""
    return service.page(context, tenant, job_id, after, accepted, front, limit)


@router.get("/{number}", operation_id="get_candidate", summary="Get a candidate")
def get_candidate(
    context: Service,
    tenant: Tenant,
    job_id: JobId,
    number: Number,
) -> Candidate:
    """One candidate with its recipe and measurements."""
    return service.get(context, tenant, job_id, number)


@router.post(
    "/{number}/export",
    operation_id="export_candidate",
    summary="Export and certify a candidate",
    status_code=202,
    response_model=Job,
    responses={202: {"description": "The job that exports it.", "headers": JOB_HEADERS}},
)
def export_candidate(
    context: Service, caller: CurrentCaller, job_id: JobId, number: Number, idempotency: Idempotent
) -> Response:
    """Deliver a candidate that the job has trained and not delivered, without searching again.

    The answer is a job of its own: wait for it, then download its files; its certificate is of this
    candidate. Asking again gives the same job, unless it failed. 409 `job_not_succeeded`, 422
    `candidate_not_trained`, and 410 `gone` when the job's state is no longer kept.
    """
    return service.export(context, caller, job_id, number, idempotency).response()
