"""Redis and Postgres flushed, cut and restarted while jobs run and wait."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError, OperationalError

from models import lifecycle
from models.database import Database
from models.job import JobStatus
from models.store import Store
from tests.faults.effects import assert_delivered_once
from tests.faults.marks import on_postgres
from tests.faults.service import Service, is_alive, runners
from tests.worker.jobs import events, load, wait_until


def start_three(service: Service) -> list[str]:
    """One job at work in its second candidate, two waiting."""
    service.hold("candidate-1")
    jobs = [service.create() for _ in range(3)]
    service.worker()
    service.keepers()
    service.wait_for_work("1 candidate-1")
    return jobs


def finish(service: Service, store: Store, jobs: list[str]) -> None:
    (service.faults / "hold-candidate-1").unlink()
    service.wait_until_done(*jobs)
    for job_id in jobs:
        assert_delivered_once(service.database, store, job_id)


@pytest.mark.slow
def test_redis_flushed(service: Service, store: Store) -> None:
    jobs = start_three(service)
    service.redis.client.flushall()
    finish(service, store, jobs)
    assert set(service.work().values()) == {3}


@pytest.mark.slow
def test_redis_restarted_empty(service: Service, store: Store) -> None:
    jobs = start_three(service)
    service.redis.kill()
    service.redis.start()
    finish(service, store, jobs)
    assert set(service.work().values()) == {3}


@pytest.mark.slow
def test_redis_away_when_the_worker_looks_for_work(service: Service, store: Store) -> None:
    """The worker meets the outage between two jobs, and goes on by itself when Redis is back."""
    jobs = start_three(service)
    service.redis.kill()
    (service.faults / "hold-candidate-1").unlink()
    wait_until(lambda: load(service.database, jobs[0]).done, 60)
    service.redis.start()
    service.wait_until_done(*jobs)
    for job_id in jobs:
        assert_delivered_once(service.database, store, job_id)


@on_postgres
def test_connections_cut_in_the_middle_of_transactions(service: Service, store: Store) -> None:
    """Every connection is cut again and again while jobs run; no write is lost or done twice."""
    assert service.postgres is not None
    jobs = [service.create() for _ in range(6)]
    service.worker("one")
    service.worker("two")
    service.keepers()
    seen = 0

    def cut_until_done() -> bool:
        """A cut for each piece of work that is begun, and for each job that is taken or ends."""
        nonlocal seen
        assert service.postgres is not None
        if len(service.log()) > seen:
            seen = len(service.log())
            service.postgres.cut_connections()
            service.database.close()
        service.hurry()
        return all(load(service.database, job_id).done for job_id in jobs)

    wait_until(cut_until_done, 180)
    assert seen > 30
    for job_id in jobs:
        assert_delivered_once(service.database, store, job_id)


@on_postgres
def test_a_transaction_that_is_cut_did_nothing(service: Service) -> None:
    assert service.postgres is not None
    job_id = service.create()
    with pytest.raises(OperationalError), service.database.transaction() as session:  # noqa: PT012
        assert lifecycle.claim(session, "w", 60) is not None
        assert service.postgres.cut_connections() == 1
    job = load(service.database, job_id)
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
    assert events(service.database, job_id) == ["job.created"]


@on_postgres
def test_a_process_frozen_in_a_transaction_does_not_hold_its_job(service: Service) -> None:
    """Postgres ends the transaction, which the reaper passes over as long as it holds the row."""
    job_id = service.create()
    with service.database.transaction() as session:
        assert lifecycle.claim_one(session, job_id, "w", 1) is not None
    service.start("reaper", ["-m", "worker.reaper"])
    reader = Database(service.database_url)
    with pytest.raises(DBAPIError), service.database.transaction() as session:  # noqa: PT012
        lifecycle.touch(session, job_id, 1)
        wait_until(lambda: load(reader, job_id).status is JobStatus.QUEUED, 60)
    reader.close()
    assert events(service.database, job_id)[-1] == "job.requeued"


@on_postgres
def test_postgres_crashed_and_restarted(service: Service, store: Store) -> None:
    assert service.postgres is not None
    jobs = start_three(service)
    service.postgres.crash()
    service.postgres.start()
    finish(service, store, jobs)
    assert set(service.work().values()) == {3}
    assert load(service.database, jobs[0]).attempt == 1


@on_postgres
def test_postgres_away_longer_than_a_lease(service: Service, store: Store) -> None:
    """The run is ended, since another may begin; it goes on when the database is back."""
    assert service.postgres is not None
    jobs = start_three(service)
    [runner] = runners(jobs[0])
    service.postgres.crash()
    try:
        wait_until(lambda: not is_alive(runner), 60)
    finally:
        service.postgres.start()
    finish(service, store, jobs)
