"""A job's run and the workers that help it: the shares of a stage, through the database.

The run offers the shares, does them itself one after the other, and takes what others give meanwhile.
It needs nobody: where no helper comes, or the database is away, it does all shares itself, and where
a helper falls silent, it takes the share back when the helper's lease is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy.orm import Session

from models import shards
from models.database import UNANSWERED, Database
from models.lifecycle import LeaseLost
from models.settings import Settings
from models.shards import Result
from worker.celery_app import send_hint
from worker.engine.crew import Alone, Outcome, Outcomes, Share
from worker.engine.errors import Stopped
from worker.engine.reporting import Stage

LOOK_SECONDS = 0.2
log = structlog.get_logger(__name__)


class QueueCrew:
    """Implements `worker.engine.crew.Crew` for the run that holds a job, with up to `workers` workers.

    `check` raises Stopped when the run was asked to stop; so does a lost lease here.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        job_id: str,
        attempt: int,
        *,
        workers: int,
        device: str,
        check: Callable[[], None],
    ) -> None:
        self._database = database
        self._settings = settings
        self._job_id = job_id
        self._attempt = attempt
        self._workers = workers
        self._device = device
        self._check = check

    def share(
        self,
        stage: Stage,
        shares: Sequence[Share],
        work: Callable[[Share], Outcome],
        told: Callable[[int], None],
    ) -> Outcomes:
        """Have them done. With one worker, or one share, the database hears nothing of it."""
        if self._workers == 1 or len(shares) < 2 or not self._offer(stage, shares):
            return Alone().share(stage, shares, work, told)
        outcomes: dict[int, Outcome] = {}
        by_others = 0
        while len(outcomes) < len(shares):
            self._check()
            given, mine = self._look(stage, [n for n in range(len(shares)) if n not in outcomes])
            for number, result in given.items():
                outcomes[number] = result.value
                by_others += result.holder is not None
                told(number)
            if mine is not None:
                outcomes[mine] = work(shares[mine])
                self._keep(stage, mine, outcomes[mine])
            elif not given:
                time.sleep(LOOK_SECONDS)
        self._done_with(stage)
        return Outcomes(tuple(outcomes[number] for number in range(len(shares))), by_others)

    def _offer(self, stage: Stage, shares: Sequence[Share]) -> bool:
        """Put the shares out and tell the workers. Whether the database took them."""
        helpers = self._workers - 1

        def offer(session: Session) -> None:
            shards.put_out(session, self._job_id, self._attempt, stage, shares, helpers=helpers)

        if not self._write(offer):
            return False
        broker = self._settings.broker
        # Until one is not taken: the dispatcher sends what is missing.
        all(send_hint(broker, self._device) for _ in range(min(helpers, len(shares))))
        return True

    def _look(self, stage: Stage, missing: list[int]) -> tuple[dict[int, Result], int | None]:
        """What was given of the missing shares, and the number of one that this run is to do now."""
        found: dict[int, Result] = {}
        taken: list[int | None] = []

        def look(session: Session) -> None:
            taken.append(shards.take(session, self._job_id, self._attempt, stage))
            found.update(shards.results(session, self._job_id, stage))

        if not self._write(look):
            return {}, missing[0]  # whoever else is at it, the result is the same
        return {number: found[number] for number in missing if number in found}, taken[-1]

    def _keep(self, stage: Stage, number: int, outcome: Outcome) -> None:
        """So that a later attempt of the job need not do it again."""
        self._write(
            lambda session: shards.finish_own(session, self._job_id, self._attempt, stage, number, outcome)
        )

    def _done_with(self, stage: Stage) -> None:
        self._write(lambda session: shards.clear(session, self._job_id, self._attempt, stage))

    def _write(self, write: Callable[[Session], None]) -> bool:
        """Whether the database answered; if not, the run goes on without. Raises Stopped."""
        try:
            with self._database.transaction() as session:
                write(session)
        except LeaseLost as error:
            raise Stopped("another run holds the job") from error
        except UNANSWERED as error:
            log.warning("shares_not_written", reason=type(error.orig).__name__)
            return False
        return True
