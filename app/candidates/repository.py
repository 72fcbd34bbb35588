"""Queries for candidates."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.candidate import CandidateRow

MEASURED_STAGES = ("baseline", "recover")
"""Whose candidates were exported and timed; those of a search are many, and predicted."""


def page(
    session: Session,
    job_id: str,
    after: int | None,
    accepted: bool | None,
    limit: int,
    *,
    among: Collection[int] | None = None,
) -> list[CandidateRow]:
    """Up to `limit` candidates behind number `after`, of those numbered in `among` if that is given."""
    query = select(CandidateRow).where(CandidateRow.job_id == job_id)
    if after is not None:
        query = query.where(CandidateRow.number > after)
    if accepted is not None:
        query = query.where(CandidateRow.accepted.is_(accepted))
    if among is not None:
        query = query.where(CandidateRow.number.in_(among))
    return list(session.scalars(query.order_by(CandidateRow.number).limit(limit)))


def measured(session: Session, job_id: str) -> list[tuple[int, dict[str, Any]]]:
    """Number and measurements of the candidates that were measured as files."""
    query = select(CandidateRow.number, CandidateRow.measurements).where(
        CandidateRow.job_id == job_id, CandidateRow.stage.in_(MEASURED_STAGES)
    )
    return [(row.number, row.measurements) for row in session.execute(query)]


def find(session: Session, job_id: str, number: int) -> CandidateRow | None:
    """The candidate of that number."""
    return session.get(CandidateRow, (job_id, number))
