"""Cancelled at every stage of its life, a job ends as cancelled, once, and frees its worker."""

from __future__ import annotations

import pytest

from models import lifecycle
from models.job import JobStatus
from models.store import Store
from tests.faults.effects import assert_delivered_once, assert_ended_once
from tests.faults.marks import on_sqlite
from tests.faults.service import Service, is_alive, runners
from tests.worker.jobs import load, wait_until

pytestmark = pytest.mark.slow

POINTS = ["prepare", "candidate-0", "candidate-4", "deliver"]


def cancel(service: Service, job_id: str) -> None:
    with service.database.transaction() as session:
        assert lifecycle.request_cancel(session, job_id) is not None


def test_cancelled_while_it_works_waits_or_is_between_workers(service: Service, store: Store) -> None:
    service.worker()
    service.keepers()
    for point in POINTS:
        hold = service.hold(point)
        working = service.create()
        waiting = service.create()
        wait_until(lambda working=working: bool(runners(working)), 60)  # type: ignore[misc]
        service.wait_for_work(f"1 {point}")
        [runner] = runners(working)
        cancel(service, waiting)
        cancel(service, working)
        service.wait_until_done(working, waiting)
        assert_ended_once(service.database, working, JobStatus.CANCELLED)
        assert_ended_once(service.database, waiting, JobStatus.CANCELLED)
        assert load(service.database, waiting).attempt == 0
        assert not is_alive(runner)
        hold.unlink()
        (service.faults / "log").unlink()
    last = service.create()
    service.wait_until_done(last)
    assert_delivered_once(service.database, store, last)


@on_sqlite
def test_cancelled_while_nobody_holds_it(service: Service) -> None:
    """Its worker is lost, its lease not over; the reaper ends it instead of queueing it again."""
    service.hold("candidate-1")
    job_id = service.create()
    service.worker()
    service.start("dispatcher", ["-m", "worker.dispatcher"])
    service.wait_for_work("1 candidate-1")
    service.lose_machine("worker", job_id)
    cancel(service, job_id)
    service.start("reaper", ["-m", "worker.reaper"])
    service.wait_until_done(job_id)
    assert_ended_once(service.database, job_id, JobStatus.CANCELLED)


@on_sqlite
def test_cancel_after_the_end_changes_nothing(service: Service, store: Store) -> None:
    job_id = service.create()
    service.worker()
    service.keepers()
    service.wait_until_done(job_id)
    cancel(service, job_id)
    assert_delivered_once(service.database, store, job_id)
