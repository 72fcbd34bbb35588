"""Tops the broker's queues up to the number of jobs and shares that wait, because hints may get lost.

`python -m worker.dispatcher` runs one; more than one do no harm. Imports no torch.
"""

from __future__ import annotations

import threading

import structlog
from sqlalchemy.exc import DBAPIError

from models import queue, shards
from models.database import Database
from models.settings import Settings
from models.spec import DEVICES
from worker.celery_app import send_hint, waiting_hints
from worker.process import run_until_told

log = structlog.get_logger(__name__)


def top_up(
    database: Database,
    broker: str,
    *,
    running_limit: int | None = None,
    compute_minutes: float | None = None,
) -> int:
    """Send the hints that are missing. Returns how many the broker took.

    The limits are those of tenants without own ones.
    """
    return sum(_top_up(database, broker, running_limit, compute_minutes, device) for device in DEVICES)


def _top_up(
    database: Database, broker: str, running_limit: int | None, compute_minutes: float | None, device: str
) -> int:
    with database.session() as session:
        queued = queue.claimable(
            session, running_limit=running_limit, compute_minutes=compute_minutes, devices=(device,)
        )
        queued += shards.claimable(session, running_limit=running_limit, devices=(device,))
    if queued == 0:
        return 0
    try:
        missing = queued - waiting_hints(broker, device)
    except Exception as error:  # whatever the broker's client raises: the next round tries again
        log.warning("broker_unreachable", reason=type(error).__name__)
        return 0
    sent = sum(send_hint(broker, device) for _ in range(missing))
    if sent:
        log.info("hints_sent", hints=sent, queued=queued, device=device)
    return sent


def run_forever(stop: threading.Event, settings: Settings) -> None:
    """Top up until told to stop; survives an unreachable database or broker."""
    broker = settings.broker
    if broker is None:
        raise ValueError("AXFORGE_BROKER_URL is not set: there is no queue to top up")
    database = Database(settings.database)
    try:
        while not stop.is_set():
            try:
                top_up(
                    database,
                    broker,
                    running_limit=settings.quota_running_jobs,
                    compute_minutes=settings.quota_compute_minutes,
                )
            except DBAPIError as error:
                log.warning("database_unreachable", reason=type(error.orig).__name__)
            stop.wait(settings.dispatch_seconds)
    finally:
        database.close()


if __name__ == "__main__":
    run_until_told("dispatcher", run_forever)
