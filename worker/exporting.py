"""A run that exports another candidate: it begins where the job that found it had ended its search."""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog

from models import exporting
from models.database import Database
from models.exporting import Origin
from models.store import BlobDamaged, BlobNotFound, Store
from worker.checkpoints import RESTORE_SECONDS, Checkpoints, fetch
from worker.engine.errors import EngineError

LATER_STAGES = ("export", "certify")  # of the job that found it: they are of another candidate
log = structlog.get_logger(__name__)


class StateGone(EngineError):
    """What the candidate was to be exported from is no longer in the store."""

    code = "state_gone"


def origin_of(database: Database, job_id: str) -> Origin | None:
    """What the job exports, or None of a job that searches for itself."""
    return database.patiently(lambda session: exporting.origin(session, job_id), RESTORE_SECONDS)


class ForeignState(Checkpoints):
    """Checkpoints of a run that exports a candidate: read from the job that found it, never written.

    There is nothing worth saving: what such a run does takes a minute.
    """

    def __init__(
        self, database: Database, store: Store, job_id: str, attempt: int, home: Path, origin: Origin
    ) -> None:
        super().__init__(database, store, job_id, attempt, home)
        self._origin = origin

    def restore(self) -> int:
        """Fetch the other job's state and settle on the candidate. Returns the files fetched.

        Raises:
            StateGone: it is not there any more.
        """
        from worker.engine.outcome import NoSuchRung, settle_on  # loads torch, which the engine needs anyway

        shutil.rmtree(self.folder, ignore_errors=True)
        for outdated in self._earlier_attempts().values():
            shutil.rmtree(outdated, ignore_errors=True)
        try:
            fetched = fetch(self._database, self._store, self._origin.job_id, self.folder, _wanted)
            settle_on(self.folder, self._origin.number)
        except (BlobDamaged, BlobNotFound, NoSuchRung) as error:
            log.error("state_unusable", reason=str(error))
            raise StateGone(
                f"the state of {self._origin.job_id} does not hold candidate {self._origin.number} any more",
                remedy="run that job again",
            ) from error
        return fetched

    def save(self) -> int:
        """Nothing."""
        return 0


def _wanted(name: str) -> bool:
    return name.split("/")[0] not in LATER_STAGES
