"""Queries for artifacts."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.artifact import Artifact


def of_jobs(session: Session, job_ids: Collection[str]) -> list[Artifact]:
    """The files of these jobs, by name."""
    return list(session.scalars(select(Artifact).where(Artifact.job_id.in_(job_ids)).order_by(Artifact.name)))


def find(session: Session, job_id: str, name: str) -> Artifact | None:
    """The job's file of that name."""
    wanted = select(Artifact).where(Artifact.job_id == job_id, Artifact.name == name)
    return session.scalars(wanted).one_or_none()
