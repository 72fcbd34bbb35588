"""Takes back what dead workers held, and clears away what nobody needs any more.

`python -m worker.reaper` runs one; more than one do no harm. Imports no torch.
"""

from __future__ import annotations

import threading

import structlog
from sqlalchemy.exc import DBAPIError

from models import deadlines, lifecycle
from models.database import Database
from models.lifecycle import Requeued
from models.settings import Settings
from models.store import Store, StoreError, open_store
from worker import collector
from worker.process import run_until_told

log = structlog.get_logger(__name__)


def take_back(database: Database, settings: Settings) -> Requeued:
    """Requeue, fail or cancel the jobs whose lease ran out."""
    with database.transaction() as session:
        done = lifecycle.requeue_expired(session, settings.max_attempts)
    for outcome, jobs in (("queued", done.queued), ("failed", done.failed), ("cancelled", done.cancelled)):
        for job_id in jobs:
            log.warning("lease_expired", job_id=job_id, now=outcome)
    return done


def end_overdue(database: Database, settings: Settings) -> list[str]:
    """Fail the jobs that nobody began in time, and the runs that take much longer than their budget."""
    with database.transaction() as session:
        ended = deadlines.expire_queued(
            session, settings.queue_hours, compute_minutes=settings.quota_compute_minutes
        )
    with database.transaction() as session:
        ended += deadlines.stop_overdue(
            session, factor=settings.runtime_factor, extra_minutes=settings.runtime_extra_minutes
        )
    if ended:
        log.warning("jobs_overdue", ids=ended)
    return ended


def clear_away(database: Database, store: Store, settings: Settings) -> None:
    """One bounded round of the collector."""
    if removed := collector.round(database, store, settings):
        log.info("cleared_away", **removed)


def run_forever(stop: threading.Event, settings: Settings) -> None:
    """Reap until told to stop; survives an unreachable database or store."""
    database = Database(settings.database)
    store = open_store(settings.store, spool=settings.data_dir / "spool")
    try:
        while not stop.is_set():
            try:
                take_back(database, settings)
                end_overdue(database, settings)
                clear_away(database, store, settings)
            except DBAPIError as error:
                log.warning("database_unreachable", reason=type(error.orig).__name__)
            except StoreError as error:
                log.warning("store_unreachable", reason=str(error))
            stop.wait(settings.reap_seconds)
    finally:
        database.close()


if __name__ == "__main__":
    run_until_told("reaper", run_forever)
