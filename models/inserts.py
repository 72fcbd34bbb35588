"""Rows of jobs and events, straight into their tables: nobody needs them as objects, and a flush of the
session costs more than twice this."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, insert
from sqlalchemy.orm import Session

from models import outbox
from models.event import Event
from models.job import Job
from models.redaction import redact

_INSERT_EVENT = insert(Event.metadata.tables[Event.__tablename__]).returning(outbox.SOMEBODY_LISTENS)
_INSERT_JOB = insert(Job.metadata.tables[Job.__tablename__])
_INSERT_JOB_BY_SERVER_TIME = _INSERT_JOB.values(available_at=func.statement_timestamp())


def insert_job(session: Session, values: dict[str, Any]) -> None:
    """Store a job that waits from now on: by the clock that claims go by, not by this machine's."""
    on_postgres = session.get_bind().dialect.name == "postgresql"
    session.execute(_INSERT_JOB_BY_SERVER_TIME if on_postgres else _INSERT_JOB, values)


def insert_event(
    session: Session, job_id: str, attempt: int, type: str, level: str, message: str, data: dict[str, Any]
) -> bool:
    """Store what happened to a job. Returns whether a webhook of its tenant might want to be told."""
    values = {"job_id": job_id, "attempt": attempt, "type": type, "level": level, "data": data}
    return bool(session.execute(_INSERT_EVENT, {**values, "message": redact(message)}).scalar_one())
