"""The run's side of its shares: with helpers, without, with lost ones, with the database away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from models import lifecycle, shards
from models.base import utc_now
from models.database import Database
from models.settings import Settings
from models.shards import ClaimedShard
from models.tables import Shard
from tests.worker.jobs import create, wait_until
from worker import dispatcher
from worker.celery_app import waiting_hints
from worker.crew import QueueCrew
from worker.embedded import folder_broker
from worker.engine.crew import Alone, Outcome, Outcomes, Share
from worker.engine.errors import Stopped

LEASE = 60.0
SHARES: list[Share] = [{"number": number} for number in range(6)]


def work(share: Share) -> Outcome:
    return {"square": share["number"] ** 2}


def running(database: Database, **budget: Any) -> str:
    job_id = create(database, budget=budget)
    with database.transaction() as session:
        assert lifecycle.claim_one(session, job_id, "parent", LEASE) is not None
    return job_id


def crew_of(
    database: Database,
    settings: Settings,
    job_id: str,
    *,
    attempt: int = 1,
    workers: int = 2,
    device: str = "cpu",
    check: Callable[[], None] = lambda: None,
) -> QueueCrew:
    return QueueCrew(database, settings, job_id, attempt, workers=workers, device=device, check=check)


def shared(crew: QueueCrew, does: Callable[[Share], Outcome] = work) -> tuple[Outcomes, list[int]]:
    told: list[int] = []
    return crew.share("analyse", SHARES, does, told.append), told


def helper_claims(database: Database, holder: str = "helper") -> ClaimedShard:
    with database.transaction() as session:
        shard = shards.claim(session, holder, LEASE)
        assert shard is not None
        assert shards.begin(session, shard)
    return shard


def helper_finishes(database: Database, shard: ClaimedShard) -> bool:
    with database.transaction() as session:
        return shards.finish(session, shard, work(shard.payload))


def rows(database: Database) -> int:
    with database.session() as session:
        return len(session.scalars(select(Shard.number)).all())


@contextmanager
def in_background(deed: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=deed)
    thread.start()
    try:
        yield
    finally:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_with_nobody_else_the_run_does_all(database: Database, settings: Settings) -> None:
    job_id = running(database)
    outcomes, told = shared(crew_of(database, settings, job_id))
    assert outcomes == Alone().share("analyse", SHARES, work, told.append)
    assert told == []
    assert rows(database) == 0


def test_with_one_worker_the_database_hears_nothing(database: Database, settings: Settings) -> None:
    seen: list[int] = []

    def does(share: Share) -> Outcome:
        seen.append(rows(database))
        return work(share)

    outcomes, _ = shared(crew_of(database, settings, "job_unknown", workers=1), does)
    assert outcomes.by_others == 0
    assert set(seen) == {0}


def test_what_others_give_is_taken(database: Database, settings: Settings) -> None:
    job_id = running(database)
    mine: list[int] = []

    def does(share: Share) -> Outcome:
        """Meanwhile, a helper does one share for each of the run's."""
        mine.append(share["number"])
        if len(mine) < len(SHARES) // 2:
            assert helper_finishes(database, helper_claims(database))
        return work(share)

    outcomes, told = shared(crew_of(database, settings, job_id), does)
    assert outcomes.values == Alone().share("analyse", SHARES, work, told.append).values
    assert outcomes.by_others == len(told) == 2
    assert sorted(mine + told) == list(range(6))


def test_the_run_waits_for_a_helper_at_work(database: Database, settings: Settings) -> None:
    job_id = running(database)
    held: list[ClaimedShard] = []
    release = threading.Event()

    def does(share: Share) -> Outcome:
        if not held:
            held.append(helper_claims(database))
        release.set()
        return work(share)

    def help() -> None:
        release.wait(30)
        wait_until(lambda: done(database) == len(SHARES) - 1)
        assert helper_finishes(database, held[0])

    with in_background(help):
        outcomes, told = shared(crew_of(database, settings, job_id), does)
    assert outcomes.by_others == 1
    assert told == [held[0].number]


def test_a_lost_helper_costs_its_lease(database: Database, settings: Settings) -> None:
    job_id = running(database)
    held: list[ClaimedShard] = []
    begun = threading.Event()

    def does(share: Share) -> Outcome:
        if not held:
            held.append(helper_claims(database))
            begun.set()
        return work(share)

    def silence() -> None:
        begun.wait(30)
        wait_until(lambda: done(database) == len(SHARES) - 1)
        with database.transaction() as session:
            leased = update(Shard).where(Shard.lease_until.is_not(None))
            session.execute(leased.values(lease_until=utc_now() - timedelta(seconds=LEASE)))

    with in_background(silence):
        outcomes, told = shared(crew_of(database, settings, job_id), does)
    assert outcomes == Alone().share("analyse", SHARES, work, told.append)
    assert not helper_finishes(database, held[0])


def test_the_next_attempt_does_not_do_again_what_is_done(database: Database, settings: Settings) -> None:
    job_id = running(database)
    seen: list[int] = []

    def dies(share: Share) -> Outcome:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(share["number"])
        return work(share)

    with pytest.raises(KeyboardInterrupt):
        shared(crew_of(database, settings, job_id), dies)
    with database.transaction() as session:
        lifecycle.release(session, job_id, 1, message="again")
        assert lifecycle.claim_one(session, job_id, "second", LEASE) is not None
    again: list[int] = []

    def goes_on(share: Share) -> Outcome:
        again.append(share["number"])
        return work(share)

    outcomes, _ = shared(crew_of(database, settings, job_id, attempt=2), goes_on)
    assert sorted(seen + again) == list(range(6))
    assert outcomes.values == tuple(work(share) for share in SHARES)


def test_a_run_that_lost_its_job_stops(database: Database, settings: Settings) -> None:
    job_id = running(database)

    def does(share: Share) -> Outcome:
        with database.transaction() as session:
            lifecycle.release(session, job_id, 1, message="lost")
        return work(share)

    with pytest.raises(Stopped):
        shared(crew_of(database, settings, job_id), does)


def test_a_run_can_be_stopped_while_it_waits(database: Database, settings: Settings) -> None:
    job_id = running(database)
    checks: list[int] = []

    def check() -> None:
        checks.append(1)
        if len(checks) > len(SHARES) + 3:
            raise Stopped

    def does(share: Share) -> Outcome:
        if share["number"] == 0:
            helper_claims(database)
        return work(share)

    with pytest.raises(Stopped):
        shared(crew_of(database, settings, job_id, check=check), does)


@pytest.mark.parametrize("asked", [1, 3])
def test_without_the_database_the_run_goes_on(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    """It is away from the first, or the third question on."""
    job_id = running(database)
    questions: list[int] = []
    transaction = database.transaction

    @contextmanager
    def away() -> Iterator[Session]:
        questions.append(1)
        if len(questions) >= asked:
            raise OperationalError("SELECT 1", {}, Exception("it is away"))
        with transaction() as session:
            yield session

    monkeypatch.setattr(database, "transaction", away)
    outcomes, _ = shared(crew_of(database, settings, job_id))
    assert outcomes.values == tuple(work(share) for share in SHARES)


def test_free_workers_are_told(database: Database, settings: Settings) -> None:
    broker = folder_broker(settings.data_dir)
    settings = settings.model_copy(update={"broker_url": type(settings.database_url)(broker)})
    job_id = running(database)
    waiting: list[int] = []
    missing: list[int] = []

    def does(share: Share) -> Outcome:
        waiting.append(waiting_hints(broker))
        missing.append(dispatcher.top_up(database, broker))
        return work(share)

    shared(crew_of(database, settings, job_id, workers=3), does)
    assert waiting == [2] * len(SHARES)
    assert set(missing) == {0}


def test_the_workers_of_the_jobs_device_are_told(database: Database, settings: Settings) -> None:
    broker = folder_broker(settings.data_dir)
    settings = settings.model_copy(update={"broker_url": type(settings.database_url)(broker)})
    shared(crew_of(database, settings, running(database), workers=3, device="cuda"))
    assert (waiting_hints(broker, "cpu"), waiting_hints(broker, "cuda")) == (0, 2)


def test_the_dispatcher_makes_up_for_lost_hints(database: Database, settings: Settings) -> None:
    broker = folder_broker(settings.data_dir)
    job_id = running(database)
    sent: list[int] = []

    def does(share: Share) -> Outcome:
        sent.append(dispatcher.top_up(database, broker))
        return work(share)

    shared(crew_of(database, settings, job_id, workers=3), does)
    assert sent == [2, 0, 0, 0, 0, 0]


def done(database: Database) -> int:
    with database.session() as session:
        return len(session.scalars(select(Shard.number).where(Shard.result.is_not(None))).all())
