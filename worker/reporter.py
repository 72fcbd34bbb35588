"""The engine's reporter that writes to the database, as the run that holds the job."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models import journal
from models.database import Database
from models.lifecycle import LeaseLost
from models.spec import Candidate
from models.store import StoreError
from worker.checkpoints import Checkpoints
from worker.engine.errors import Stopped
from worker.engine.measure.process import peak_rss_bytes
from worker.engine.memory import peak_device_bytes
from worker.engine.reporting import FINISHED, STARTED, Stage
from worker.progress import Gauge

LEAST_SECONDS_BETWEEN_WRITES = 1.0
log = structlog.get_logger(__name__)

Write = Callable[[Session], object]


class DatabaseReporter:
    """Implements `worker.engine.reporting.Reporter`.

    An unreachable database does not stop a run: what could not be written is kept and written
    with the next report, or by `flush` in the transaction that ends the run. A lost lease does.
    """

    def __init__(
        self,
        database: Database,
        job_id: str,
        attempt: int,
        checkpoints: Checkpoints,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._job_id = job_id
        self._attempt = attempt
        self._checkpoints = checkpoints
        self._clock = clock
        self._gauge = Gauge(clock)
        self._stage: Stage | None = None
        self._began: float | None = None
        self._written_at = -LEAST_SECONDS_BETWEEN_WRITES
        self._unwritten: list[Write] = []
        self._stop = False

    def stop(self) -> None:
        """Have the next `check` raise. May be called from a signal handler."""
        self._stop = True

    def progress(
        self, stage: Stage, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        """Write it, unless the last write was less than a second ago in the same stage."""
        document = self._gauge.document(stage, step, total, message)
        entered = stage != self._stage
        timed = self._time(stage, message)
        if not entered and not timed and self._clock() - self._written_at < LEAST_SECONDS_BETWEEN_WRITES:
            return
        self._written_at = self._clock()
        if entered or timed:  # whoever is stopped right after a stage has not done it in vain
            self._save_checkpoints()
        if entered:
            self._stage = stage
            if message != FINISHED:  # else an earlier attempt did it, and told of it
                self._keep(
                    lambda session: journal.add_event(
                        session,
                        self._job_id,
                        self._attempt,
                        type="stage.started",
                        message=f"Stage {stage} has begun.",
                        data={"stage": stage},
                    )
                )
        document |= _memory()
        self._write(
            lambda session: self._note_cancel(
                journal.write_progress(session, self._job_id, self._attempt, document)
            )
        )

    def event(self, type: str, message: str, **data: Any) -> None:
        """Append it to the job's events."""
        self._keep(
            lambda session: journal.add_event(
                session, self._job_id, self._attempt, type=type, message=message, data=data
            )
        )
        self._write()

    def candidate(self, candidate: Candidate) -> None:
        """Store it, and the search's state with it."""
        self._keep(lambda session: journal.upsert_candidate(session, self._job_id, self._attempt, candidate))
        self._write()
        self._save_checkpoints()

    def check(self) -> None:
        """Raise `Stopped` when the user, the operator or a lost lease asks for it."""
        if self._stop:
            raise Stopped("the run was asked to stop")

    def flush(self, session: Session) -> None:
        """Write what is still unwritten, within the caller's transaction. Raises LeaseLost."""
        for write in self._unwritten:
            write(session)

    def _time(self, stage: Stage, message: str) -> bool:
        """Note how long a stage took that began and ended here. Returns whether this was its end."""
        if message == STARTED:
            self._began = self._clock()
        if message != FINISHED or self._began is None:
            return False
        seconds, self._began = self._clock() - self._began, None
        self._keep(lambda session: journal.finish_stage(session, self._job_id, self._attempt, stage, seconds))
        return True

    def _keep(self, write: Write) -> None:
        self._unwritten.append(write)

    def _write(self, passing: Write | None = None) -> None:
        """Write what was kept, and something that need not be kept if it fails."""
        try:
            with self._database.transaction() as session:
                self.flush(session)
                if passing is not None:
                    passing(session)
        except LeaseLost as error:
            self._stop = True
            raise Stopped("another run holds the job") from error
        except DBAPIError as error:
            log.warning("report_delayed", reason=type(error.orig).__name__)
            return
        self._unwritten.clear()

    def _save_checkpoints(self) -> None:
        try:
            self._checkpoints.save()
        except LeaseLost as error:
            self._stop = True
            raise Stopped("another run holds the job") from error
        except (DBAPIError, StoreError) as error:
            log.warning("checkpoint_not_saved", reason=type(error).__name__)

    def _note_cancel(self, requested: bool) -> None:
        self._stop = self._stop or requested


def _memory() -> dict[str, int]:
    """What the run has held at most; of a GPU only where it uses one."""
    device = peak_device_bytes()
    return {"memory_bytes": peak_rss_bytes()} | ({} if device is None else {"device_memory_bytes": device})
