"""What can be asked about candidates."""

from __future__ import annotations

from app.candidates import repository
from app.candidates.schemas import Candidate, CandidateList
from app.context import Context
from app.jobs import repository as jobs
from app.problems import NotFound
from models.candidate import CandidateRow


def page(
    context: Context, tenant: str, job_id: str, after: int | None, accepted: bool | None, limit: int
) -> CandidateList:
    """A page of candidates, by number."""
    with context.database.session() as session:
        jobs.existing(session, tenant, job_id)
        rows = repository.page(session, job_id, after, accepted, limit + 1)
    return CandidateList(
        object="list", data=[_describe(row) for row in rows[:limit]], has_more=len(rows) > limit
    )


def get(context: Context, tenant: str, job_id: str, number: int) -> Candidate:
    """The candidate of that number.

    Raises:
        NotFound: no such job, or it has not measured that many.
    """
    with context.database.session() as session:
        jobs.existing(session, tenant, job_id)
        row = repository.find(session, job_id, number)
    if row is None:
        raise NotFound(
            f"The job has no candidate {number}.",
            remedy=f"See GET /v1/jobs/{job_id}/candidates for the numbers.",
        )
    return _describe(row)


def _describe(row: CandidateRow) -> Candidate:
    return Candidate(
        object="candidate",
        job_id=row.job_id,
        number=row.number,
        stage=row.stage,
        recipe=row.recipe,
        measurements=row.measurements,
        accepted=row.accepted,
        reason=row.reason,
        created_at=row.created_at,
    )
