"""Queries that tell whether the database serves."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.job import Job


def probe(session: Session) -> None:
    """Raise SQLAlchemyError unless the tables are there."""
    session.execute(select(Job.id).limit(1)).first()
