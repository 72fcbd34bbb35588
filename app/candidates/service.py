"""What can be asked about candidates, and the export of one that was not delivered."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from sqlalchemy.orm import Session

from app.artifacts import repository as artifacts
from app.audit import repository as audit
from app.caller import Caller
from app.candidates import repository
from app.candidates.front import on_front
from app.candidates.schemas import Candidate, CandidateList
from app.context import Context
from app.idempotency.service import Answer, Keyed, once
from app.jobs import repository as jobs
from app.jobs.service import answer_of, describe
from app.problems import CandidateNotTrained, Gone, JobNotSucceeded, NotFound, unknown_job
from app.quotas.service import check_may_queue
from models import exporting
from models.candidate import CandidateRow
from models.job import JobStatus

TRAINED = "recover"  # the stage whose candidates keep their weights


def page(
    context: Context,
    tenant: str,
    job_id: str,
    after: int | None,
    accepted: bool | None,
    front: bool | None,
    limit: int,
) -> CandidateList:
    """A page of candidates, by number; with `front` only those on the Pareto front."""
    with context.database.session() as session:
        job = jobs.existing(session, tenant, job_id)
        best = on_front(repository.measured(session, job_id), job.spec["metric"])
        among = best if front else None
        rows = repository.page(session, job_id, after, accepted, limit + 1, among=among)
        exported = exporting.job_ids(session, job_id)
    return CandidateList(
        object="list",
        data=[_describe(row, best, exported) for row in rows[:limit]],
        has_more=len(rows) > limit,
    )


def get(context: Context, tenant: str, job_id: str, number: int) -> Candidate:
    """The candidate of that number.

    Raises:
        NotFound: no such job, or it has not measured that many.
    """
    with context.database.session() as session:
        job = jobs.existing(session, tenant, job_id)
        row = _existing(session, job_id, number)
        best = on_front(repository.measured(session, job_id), job.spec["metric"])
        return _describe(row, best, exporting.job_ids(session, job_id))


def export(context: Context, caller: Caller, job_id: str, number: int, request: Keyed) -> Answer:
    """Queue a job that exports and certifies the candidate; the one there is, if it was asked for before.

    Raises:
        NotFound: no such job or candidate.
        JobNotSucceeded: the job has not ended, or not well.
        CandidateNotTrained: nothing but the recipe was kept of the candidate.
        Gone: the job's state is kept no longer.
        QuotaExceeded: the tenant has as many jobs queued, or has used as many minutes, as it may.
    """

    def store(session: Session) -> Answer:
        source = jobs.lock(session, caller.tenant, job_id)
        if source is None:
            raise unknown_job(job_id)
        candidate = _existing(session, job_id, number)
        row = exporting.find(session, job_id, number)
        if row is None:
            if source.status is not JobStatus.SUCCEEDED:
                raise JobNotSucceeded(
                    f"The job is {source.status.value}.",
                    remedy="Candidates are exported of jobs that have succeeded; wait for its end.",
                )
            if candidate.stage != TRAINED:
                raise CandidateNotTrained(
                    f"Candidate {number} is of stage {candidate.stage}; only its recipe was kept.",
                    remedy=f"Take one of stage {TRAINED}; see GET /v1/jobs/{job_id}/candidates?front=true.",
                )
            if not exporting.has_state(session, job_id):
                raise Gone("The state of the job's search is no longer kept.", remedy="Run the job again.")
            check_may_queue(session, caller.tenant, context.settings)
            row = exporting.start(session, source, number)
            audit.record(session, caller, "candidate.exported", job_id, number=number, export_job_id=row.id)
        job = describe(row, artifacts.of_jobs(session, [row.id]))
        answer = answer_of(context, job, row.version, status=202)
        return replace(answer, headers={**answer.headers, "Location": f"/v1/jobs/{row.id}"})

    answer = once(context, caller.tenant, request, "", store)
    if not answer.replayed:
        with context.database.session() as session:
            device = jobs.existing(session, caller.tenant, job_id).device
        context.send_hint(device)
    return answer


def _existing(session: Session, job_id: str, number: int) -> CandidateRow:
    row = repository.find(session, job_id, number)
    if row is None:
        raise NotFound(
            f"The job has no candidate {number}.",
            remedy=f"See GET /v1/jobs/{job_id}/candidates for the numbers.",
        )
    return row


def _describe(row: CandidateRow, best: Collection[int], exported: dict[int, str]) -> Candidate:
    return Candidate(
        object="candidate",
        job_id=row.job_id,
        number=row.number,
        stage=row.stage,
        recipe=row.recipe,
        measurements=row.measurements,
        accepted=row.accepted,
        reason=row.reason,
        on_front=row.number in best,
        export_job_id=exported.get(row.number),
        created_at=row.created_at,
    )
