"""Queries for artifacts."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from models.artifact import Artifact

# Asked by every look at a finished job; to compose it takes longer than to run it.
_OF_JOBS = (
    select(Artifact).where(Artifact.job_id.in_(bindparam("job_ids", expanding=True))).order_by(Artifact.name)
)


def of_jobs(session: Session, job_ids: Collection[str]) -> list[Artifact]:
    """The files of these jobs, by name."""
    return list(session.scalars(_OF_JOBS, {"job_ids": job_ids}))


def find(session: Session, job_id: str, name: str) -> Artifact | None:
    """The job's file of that name."""
    wanted = select(Artifact).where(Artifact.job_id == job_id, Artifact.name == name)
    return session.scalars(wanted).one_or_none()
