"""Asks the parts that the service stands on."""

from __future__ import annotations

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.context import Context
from app.health import repository
from app.health.schemas import Part, Readiness
from app.problems import NotReady
from models.store import StoreError
from worker.celery_app import waiting_hints

PROBE_KEY = "health/probe"

log = structlog.get_logger(__name__)


def readiness(context: Context) -> Readiness:
    """The state of every part.

    Raises:
        NotReady: a part without which nothing can be served is down.
    """
    parts = [_database(context), _store(context), _broker(context)]
    down = [part for part in parts if part.status == "down"]
    if down:
        raise NotReady(" ".join(part.detail for part in down), remedy="Try again later.")
    degraded = any(part.status == "degraded" for part in parts)
    return Readiness(status="degraded" if degraded else "ok", parts=parts)


def _database(context: Context) -> Part:
    try:
        with context.database.session() as session:
            repository.probe(session)
    except SQLAlchemyError as error:
        log.warning("database_down", error=type(error).__name__)
        detail = "The database does not answer, or its tables are not there."
        return Part(name="database", status="down", detail=detail)
    return Part(name="database", status="ok", detail="answers")


def _store(context: Context) -> Part:
    try:
        context.store.exists(PROBE_KEY)
    except (StoreError, OSError) as error:
        log.warning("store_down", error=type(error).__name__)
        return Part(name="store", status="down", detail="The object store does not answer.")
    return Part(name="store", status="ok", detail="answers")


def _broker(context: Context) -> Part:
    """Never down: a job is safe without it and found by the dispatcher."""
    broker = context.settings.broker
    if broker is None:
        return Part(name="broker", status="degraded", detail="No broker is set; jobs are stored only.")
    try:
        waiting = waiting_hints(broker)
    except Exception as error:  # each broker's client has its own errors
        log.warning("broker_down", error=type(error).__name__)
        return Part(name="broker", status="degraded", detail="The broker does not answer; jobs start later.")
    return Part(name="broker", status="ok", detail=f"answers; {waiting} hints wait")
