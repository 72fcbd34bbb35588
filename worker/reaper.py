"""Takes back what dead workers held, and clears away what nobody needs any more.

`python -m worker.reaper` runs one; more than one do no harm. Imports no torch.
"""

from __future__ import annotations

import threading

import structlog
from sqlalchemy import delete, select
from sqlalchemy.exc import DBAPIError

from models import lifecycle
from models.database import Database, after
from models.job import TERMINAL
from models.lifecycle import Requeued
from models.settings import Settings
from models.store import Store, StoreError, open_store
from models.tables import Checkpoint, IdempotencyKey, Job
from worker.checkpoints import checkpoint_folder
from worker.process import run_until_told

log = structlog.get_logger(__name__)


def take_back(database: Database, settings: Settings) -> Requeued:
    """Requeue, fail or cancel the jobs whose lease ran out."""
    with database.transaction() as session:
        done = lifecycle.requeue_expired(session, settings.max_attempts)
    if done.queued or done.failed or done.cancelled:
        log.warning("leases_expired", queued=done.queued, failed=done.failed, cancelled=done.cancelled)
    return done


def forget_idempotency_keys(database: Database, settings: Settings) -> None:
    """Remove keys older than they are promised to be kept."""
    with database.transaction() as session:
        oldest = after(session, -settings.idempotency_hours * 3600)
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < oldest))


def drop_checkpoints(database: Database, store: Store) -> list[str]:
    """Remove the checkpoints of jobs that are done. Returns the ids of those jobs."""
    with database.session() as session:
        finished = (
            select(Checkpoint.job_id)
            .join(Job, Job.id == Checkpoint.job_id)
            .where(Job.status.in_(TERMINAL))
            .distinct()
        )
        done = list(session.scalars(finished))
    for job_id in done:
        for key in list(store.list(checkpoint_folder(job_id))):
            store.delete(key)
        with database.transaction() as session:
            session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id))
    return done


def run_forever(stop: threading.Event, settings: Settings) -> None:
    """Reap until told to stop; survives an unreachable database or store."""
    database = Database(settings.database)
    store = open_store(settings.store)
    try:
        while not stop.is_set():
            try:
                take_back(database, settings)
                forget_idempotency_keys(database, settings)
                drop_checkpoints(database, store)
            except DBAPIError as error:
                log.warning("database_unreachable", reason=type(error.orig).__name__)
            except StoreError as error:
                log.warning("store_unreachable", reason=str(error))
            stop.wait(settings.reap_seconds)
    finally:
        database.close()


if __name__ == "__main__":
    run_until_told(run_forever)
