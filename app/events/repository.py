"""Queries for events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select
from sqlalchemy.orm import Session

from models.event import Event

# Asked at every change of a job that is followed; to compose it takes longer than to run it.
_EVENT = Event.metadata.tables[Event.__tablename__]
_BEHIND = (
    select(_EVENT)
    .where(_EVENT.c.job_id == bindparam("job_id"), _EVENT.c.id > bindparam("after"))
    .order_by(_EVENT.c.id)
    .limit(bindparam("limit"))
)


def page(session: Session, job_id: str, after: int, limit: int) -> list[Event]:
    """Up to `limit` events behind id `after`, the oldest first."""
    query = select(Event).where(Event.job_id == job_id, Event.id > after)
    return list(session.scalars(query.order_by(Event.id).limit(limit)))


def rows(connection: Connection, job_id: str, after: int, limit: int) -> Sequence[Row[Any]]:
    """The same as rows that have the names of an `Event`."""
    return connection.execute(_BEHIND, {"job_id": job_id, "after": after, "limit": limit}).all()
