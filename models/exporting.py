"""Another candidate of a job that has succeeded: a job of its own that goes on from the first one's state.

The state is the first job's checkpoint, which is kept for a time after its end (`models.retention`). The
new job goes through the same queue, leases and events as any other, and delivers files and a certificate
of its own. Each function runs inside the caller's `Database.transaction()`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, SQLColumnExpression, delete, exists, func, select
from sqlalchemy.orm import Session

from models import lifecycle
from models.candidate_export import CandidateExport
from models.checkpoint import Checkpoint
from models.job import TERMINAL, Job, JobStatus
from models.spec import JobSpec

LONGEST_NAME = 100


@dataclass(frozen=True)
class Origin:
    """The job whose candidate `number` is exported."""

    job_id: str
    number: int


def start(session: Session, source: Job, number: int) -> Job:
    """Queue the export of candidate `number` of a job whose row the caller has locked.

    Takes the place of an earlier one that failed. Send a hint after the transaction is committed.
    """
    session.execute(
        delete(CandidateExport).where(
            CandidateExport.source_id == source.id, CandidateExport.number == number
        )
    )
    suffix = f" candidate {number}"
    spec = JobSpec.model_validate({**source.spec, "name": source.name[: LONGEST_NAME - len(suffix)] + suffix})
    job = lifecycle.create(session, spec, tenant=source.tenant)
    session.add(CandidateExport(job_id=job.id, source_id=source.id, number=number))
    return job


def find(session: Session, source_id: str, number: int) -> Job | None:
    """The job that exports this candidate, or did, unless it failed or was cancelled."""
    wanted = (
        select(Job)
        .join(CandidateExport, CandidateExport.job_id == Job.id)
        .where(
            CandidateExport.source_id == source_id,
            CandidateExport.number == number,
            Job.status.in_((JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED)),
        )
    )
    return session.scalars(wanted).one_or_none()


def job_ids(session: Session, source_id: str) -> dict[int, str]:
    """The jobs that export candidates of this one, by the candidates' numbers."""
    of_source = CandidateExport.source_id == source_id
    rows = session.execute(select(CandidateExport.number, CandidateExport.job_id).where(of_source))
    return {row.number: row.job_id for row in rows}


def origin(session: Session, job_id: str) -> Origin | None:
    """What a job exports, or None of a job that searches for itself."""
    row = session.get(CandidateExport, job_id)
    return None if row is None else Origin(row.source_id, row.number)


def has_state(session: Session, job_id: str) -> bool:
    """Whether the state of a job that has ended is still kept."""
    kept = select(func.count()).select_from(
        select(Checkpoint.name).where(Checkpoint.job_id == job_id).limit(1).subquery()
    )
    return session.execute(kept).scalar_one() > 0


def under_way(source_id: SQLColumnExpression[str] | str) -> ColumnElement[bool]:
    """The condition that an export of the job has not ended."""
    child = Job.__table__.alias("export_job")
    return exists(
        select(CandidateExport.job_id)
        .join(child, child.c.id == CandidateExport.job_id)
        .where(CandidateExport.source_id == source_id, child.c.status.not_in(TERMINAL))
    )
