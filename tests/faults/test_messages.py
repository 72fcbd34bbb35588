"""Messages lost, doubled, late: a message is only a hint."""

from __future__ import annotations

import pytest

from models.store import Store
from tests.faults.effects import assert_delivered_once
from tests.faults.service import Service
from tests.worker.jobs import events, wait_until
from worker.celery_app import send_hint, waiting_hints


def test_lost_messages_are_made_up_for(service: Service, store: Store) -> None:
    jobs = [service.create() for _ in range(3)]
    for _ in jobs:
        assert send_hint(service.redis.url, "cpu")
    service.redis.client.flushall()  # all three are lost
    service.worker()
    service.keepers()
    service.wait_until_done(*jobs)
    for job_id in jobs:
        assert_delivered_once(service.database, store, job_id)
    assert set(service.work().values()) == {3}


@pytest.mark.slow
def test_doubled_and_late_messages_do_nothing_twice(service: Service, store: Store) -> None:
    jobs = [service.create() for _ in range(3)]
    for _ in range(12):
        assert send_hint(service.redis.url, "cpu")
    service.worker("one")
    service.worker("two")
    service.wait_until_done(*jobs)
    for _ in range(3):
        assert send_hint(service.redis.url, "cpu")  # after all is done
    wait_until(lambda: waiting_hints(service.redis.url) == 0, 60)
    later = service.create()
    assert send_hint(service.redis.url, "cpu")
    service.wait_until_done(later)
    for job_id in (*jobs, later):
        assert_delivered_once(service.database, store, job_id)
        assert events(service.database, job_id).count("job.started") == 1
    assert set(service.work().values()) == {4}
