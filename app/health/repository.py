"""Queries that tell whether the database serves."""

from __future__ import annotations

from sqlalchemy import column, select, table
from sqlalchemy.orm import Session

from models.job import Job


def probe(session: Session) -> None:
    """Raise SQLAlchemyError unless the tables are there."""
    session.execute(select(Job.id).limit(1)).first()


def revision(session: Session) -> str | None:
    """The revision that the tables are of. Raises SQLAlchemyError if nothing was ever migrated."""
    return session.execute(select(column("version_num")).select_from(table("alembic_version"))).scalar()
