"""Queries for artifacts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select
from sqlalchemy.orm import Session

from models.artifact import Artifact

# Asked by every look at a finished job; to compose it takes longer than to run it.
_ARTIFACT = Artifact.metadata.tables[Artifact.__tablename__]
_OF_JOB = select(_ARTIFACT).where(_ARTIFACT.c.job_id == bindparam("job_id")).order_by(_ARTIFACT.c.name)


def of_job(connection: Connection, job_id: str) -> Sequence[Row[Any]]:
    """The job's files as rows that have the names of an `Artifact`, by name."""
    return connection.execute(_OF_JOB, {"job_id": job_id}).all()


def of_jobs(session: Session, job_ids: Collection[str]) -> list[Artifact]:
    """The files of these jobs, by name."""
    wanted = select(Artifact).where(Artifact.job_id.in_(job_ids)).order_by(Artifact.name)
    return list(session.scalars(wanted))


def find(session: Session, job_id: str, name: str) -> Artifact | None:
    """The job's file of that name."""
    wanted = select(Artifact).where(Artifact.job_id == job_id, Artifact.name == name)
    return session.scalars(wanted).one_or_none()
