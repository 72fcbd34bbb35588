"""`/v1/jobs/{job_id}/candidates`: what the search measured."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from app.auth import needs
from app.candidates import service
from app.candidates.schemas import Candidate, CandidateList
from app.context import Service, Tenant
from app.pages import Limit
from app.schemas import JobId
from models.api_key import Scope

router = APIRouter(
    prefix="/v1/jobs/{job_id}/candidates", tags=["candidates"], dependencies=[needs(Scope.JOBS)]
)

LARGEST_NUMBER = 2**31 - 1


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
) -> CandidateList:
    """The candidates measured so far, by number."""
    return service.page(context, tenant, job_id, after, accepted, limit)


@router.get("/{number}", operation_id="get_candidate", summary="Get a candidate")
def get_candidate(
    context: Service,
    tenant: Tenant,
    job_id: JobId,
    number: Annotated[int, Path(ge=0, le=LARGEST_NUMBER)],
) -> Candidate:
    """One candidate with its recipe and measurements."""
    return service.get(context, tenant, job_id, number)
