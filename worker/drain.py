"""`python -m worker.drain`: does the jobs that are queued, one after another, and leaves when there are none.

For schedulers that start workers where there is work, such as a KEDA ScaledJob or a batch system. It
claims from the job table, so it needs no broker; and because it ends by itself, nobody has to
guess which worker is idle when there are too many. SIGTERM checkpoints the job and gives it back.
"""

from __future__ import annotations

import threading

import structlog

from models.database import Database
from models.settings import Settings
from worker.process import run_until_told
from worker.supervisor import Supervisor

log = structlog.get_logger(__name__)


def run_until_empty(stop: threading.Event, settings: Settings) -> None:
    """Claim and run until no job is claimable, or told to stop."""
    database = Database(settings.database)
    try:
        runs = drain(Supervisor(database, settings, stopping=stop.is_set))
    finally:
        database.close()
    log.info("queue_empty" if not stop.is_set() else "told_to_stop", runs=runs)


def drain(supervisor: Supervisor) -> int:
    """See job after job through until there is none. Returns how many runs that took."""
    runs = 0
    while supervisor.run_next() is not None:
        runs += 1
    return runs


if __name__ == "__main__":
    run_until_told("worker", run_until_empty)
