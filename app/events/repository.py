"""Queries for events."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.event import Event


def page(session: Session, job_id: str, after: int, limit: int) -> list[Event]:
    """Up to `limit` events behind id `after`, the oldest first."""
    query = select(Event).where(Event.job_id == job_id, Event.id > after)
    return list(session.scalars(query.order_by(Event.id).limit(limit)))
