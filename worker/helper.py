"""`python -m worker.helper JOB HOLDER`: the process that does shares of another worker's job.

It reads the job's finished stages from the checkpoint, loads what they left, and does one share after
the other until none is left, or a job waits for a worker. Exit codes: 0 nothing is left to do; 75 told
to stop; 69 the database or the store did not answer; anything else is a failure. The supervisor gives
back what it held.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.orm import Session

from models import shards, telemetry
from models.database import UNANSWERED, Database
from models.logs import configure
from models.settings import Settings
from models.shards import ClaimedShard
from models.spec import JobSpec
from models.store import StoreError, open_store
from worker.checkpoints import fetch
from worker.devices import devices_served
from worker.engine.crew import Outcome, Share
from worker.engine.errors import Stopped
from worker.engine.reporting import SilentReporter
from worker.watch import EXIT_DONE, EXIT_STOPPED, EXIT_UNAVAILABLE
from worker.workfolder import helper_folder

EXIT_FAILED = 1
T = TypeVar("T")
log = structlog.get_logger(__name__)


class HelperReporter(SilentReporter):
    """Tells nobody; stops when the process was asked to."""

    def __init__(self) -> None:
        self._stop = False

    def stop(self) -> None:
        """Have the next `check` raise. May be called from a signal handler."""
        self._stop = True

    def check(self) -> None:
        if self._stop:
            raise Stopped("the helper was asked to stop")


def help_until_done(settings: Settings, job_id: str, holder: str) -> int:
    """Do shares of the job until none is left. Returns the exit code."""
    database = Database(settings.database)
    try:
        _Helper(settings, database).run(job_id, holder)
    except Stopped:
        return EXIT_STOPPED
    except (*UNANSWERED, StoreError):
        log.exception("service_unavailable")
        return EXIT_UNAVAILABLE
    except Exception:
        log.exception("share_failed")
        return EXIT_FAILED
    finally:
        database.close()
    return EXIT_DONE


class _Helper:
    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._reporter = HelperReporter()
        self._done = 0

    def run(self, job_id: str, holder: str) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self._reporter.stop())
        shard = self._patiently(lambda session: shards.held(session, job_id, holder))
        if shard is None:
            return
        work = self._prepared(shard)
        mine: ClaimedShard | None = shard if self._begun(shard) else self._next(shard)
        while mine is not None:
            self._reporter.check()
            mine = self._finished(mine, work(mine.payload))
        log.info("helped", shares=self._done)

    def _prepared(self, shard: ClaimedShard) -> Callable[[Share], Outcome]:
        from worker.engine.stages.helping import SHARED  # loads torch

        shared = SHARED[shard.stage]
        folder = helper_folder(self._settings.data_dir, shard.job_id, shard.holder)
        store = open_store(self._settings.store, spool=self._settings.data_dir / "spool")
        fetch(self._database, store, shard.job_id, folder, shared.needed)
        self._reporter.check()
        return shared.helper(JobSpec.model_validate(shard.spec), folder, self._reporter, shard.payload)

    def _begun(self, shard: ClaimedShard) -> bool:
        return self._patiently(lambda session: shards.begin(session, shard))

    def _finished(self, shard: ClaimedShard, outcome: Outcome) -> ClaimedShard | None:
        """Hand the result over; in the same transaction take the next, so that the lease goes on."""

        def finish(session: Session) -> tuple[bool, ClaimedShard | None]:
            return shards.finish(session, shard, outcome), self._claim_next(session, shard)

        accepted, following = self._patiently(finish)
        self._done += accepted
        return following

    def _next(self, shard: ClaimedShard) -> ClaimedShard | None:
        return self._patiently(lambda session: self._claim_next(session, shard))

    def _claim_next(self, session: Session, shard: ClaimedShard) -> ClaimedShard | None:
        return shards.claim_next(
            session,
            shard,
            self._settings.lease_seconds,
            running_limit=self._settings.quota_running_jobs,
            compute_minutes=self._settings.quota_compute_minutes,
            devices=devices_served(self._settings.worker_devices),
        )

    def _patiently(self, write: Callable[[Session], T]) -> T:
        return self._database.patiently(write, self._settings.lease_seconds)


def main(job_id: str, holder: str) -> int:
    """Help as a process of its own: with logs, a span, and last words if it crashes."""
    settings = Settings()
    configure("helper", settings.log_level)
    faulthandler.enable()
    structlog.contextvars.bind_contextvars(job_id=job_id, holder=holder)
    with (
        telemetry.exporting("helper"),
        telemetry.span("job.share", parent=telemetry.from_environment(), axforge__job_id=job_id),
    ):
        return help_until_done(settings, job_id, holder)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
