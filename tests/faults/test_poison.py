"""A job that no worker survives is given up after its attempts, and the cause is named."""

from __future__ import annotations

import pytest

from models.job import JobStatus
from models.store import Store
from tests.faults.effects import assert_delivered_once, assert_ended_once
from tests.faults.marks import on_sqlite
from tests.faults.service import Service
from tests.worker.jobs import events, load

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("deed", "attempts", "code", "named"),
    [
        ("be_killed_for_memory", 2, "out_of_memory", "too little memory"),
        ("ask_for_too_much_memory", 2, "out_of_memory", "too little memory"),
        ("segfault", 3, "worker_crashed", "SIGSEGV"),
        ("meet_a_full_disk", 1, "disk_full", "no room left"),
    ],
)
@on_sqlite
def test_poison(service: Service, deed: str, attempts: int, code: str, named: str) -> None:
    poisoned = service.create()
    service.do("candidate-1", deed)
    service.worker()
    service.keepers()
    service.wait_until_done(poisoned)
    assert_ended_once(service.database, poisoned, JobStatus.FAILED)
    job = load(service.database, poisoned)
    assert job.attempt == attempts
    assert job.error is not None
    assert job.error["code"] == code
    assert named in job.error["detail"]
    assert job.error["remedy"]
    assert events(service.database, poisoned).count("job.requeued") == attempts - 1
    assert service.work() == {"prepare": 1, "candidate-0": 1, "candidate-1": attempts}


@on_sqlite
def test_a_worker_survives_the_poison_of_others(service: Service, store: Store) -> None:
    poison = service.do("candidate-1", "segfault")
    poisoned = service.create()
    service.worker()
    service.keepers()
    service.wait_until_done(poisoned)
    poison.unlink()
    healthy = service.create()
    service.wait_until_done(healthy)
    assert_delivered_once(service.database, store, healthy)


@on_sqlite
def test_memory_kills_are_counted_apart_from_lost_workers(service: Service, store: Store) -> None:
    """The first memory kill is tried again, also where a worker was lost before."""
    job_id = service.create()
    for point in ("1-candidate-1", "2-candidate-2"):
        service.do(point, "be_killed_for_memory" if point[0] == "2" else "segfault")
    service.worker()
    service.keepers()
    service.wait_until_done(job_id)
    assert_delivered_once(service.database, store, job_id)
    assert load(service.database, job_id).attempt == 3
