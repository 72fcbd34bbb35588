"""Queries for candidates."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.candidate import CandidateRow


def page(
    session: Session, job_id: str, after: int | None, accepted: bool | None, limit: int
) -> list[CandidateRow]:
    """Up to `limit` candidates behind number `after`."""
    query = select(CandidateRow).where(CandidateRow.job_id == job_id)
    if after is not None:
        query = query.where(CandidateRow.number > after)
    if accepted is not None:
        query = query.where(CandidateRow.accepted.is_(accepted))
    return list(session.scalars(query.order_by(CandidateRow.number).limit(limit)))


def find(session: Session, job_id: str, number: int) -> CandidateRow | None:
    """The candidate of that number."""
    return session.get(CandidateRow, (job_id, number))
