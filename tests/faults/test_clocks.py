"""Clocks a minute apart. Postgres' own clock decides there; on SQLite all processes share a machine's."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from models import lifecycle
from models.base import utc_now
from models.database import now
from models.job import JobStatus
from models.store import Store
from tests.faults.effects import assert_delivered_once
from tests.faults.marks import on_postgres, on_sqlite
from tests.faults.service import ROOT, Service
from tests.worker.jobs import events, load, wait_until

pytestmark = pytest.mark.slow

AHEAD, BEHIND = {"AXFORGE_CLOCK_AHEAD": "60"}, {"AXFORGE_CLOCK_AHEAD": "-60"}
CREATE = (
    "from tests.faults.clock import shift; shift();"
    "from models.database import Database; from models.settings import Settings;"
    "from tests.worker.jobs import create; print(create(Database(Settings().database)))"
)


def reaper(service: Service, **clock: str) -> None:
    service.start("reaper", ["-m", "tests.faults.clock", "worker.reaper"], **clock)


@on_postgres
def test_on_postgres_no_worker_s_clock_counts(service: Service, store: Store) -> None:
    """Worker `one` is a minute behind, `two` and the reaper are a minute ahead: live leases are left."""
    service.hold("candidate-1")
    jobs = [service.create() for _ in range(2)]
    service.worker("one", **BEHIND)
    service.worker("two", **AHEAD)
    reaper(service, **AHEAD)
    service.start("dispatcher", ["-m", "tests.faults.clock", "worker.dispatcher"], **BEHIND)
    wait_until(lambda: service.log().count("1 candidate-1") == 2, 60)
    rows = [load(service.database, job_id) for job_id in jobs]
    assert len({row.worker for row in rows}) == 2
    for row in rows:
        assert row.lease_until is not None
        assert abs(row.lease_until - utc_now()) < timedelta(seconds=30)
    longest = max(row.lease_until for row in rows if row.lease_until is not None)
    # A whole lease later both are still held by whom they were.
    wait_until(lambda: _now(service) > longest, 60)
    (service.faults / "hold-candidate-1").unlink()
    service.wait_until_done(*jobs)
    for job_id in jobs:
        assert_delivered_once(service.database, store, job_id)
        assert load(service.database, job_id).attempt == 1


@on_postgres
def test_a_job_from_a_machine_that_is_ahead_does_not_wait(service: Service) -> None:
    environment = os.environ | service.settings.environment() | AHEAD
    made = subprocess.run(
        [sys.executable, "-c", CREATE], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    with service.database.transaction() as session:
        claimed = lifecycle.claim(session, "w", 60)
    assert claimed is not None
    assert claimed.id == made.stdout.strip()


@on_sqlite
def test_on_sqlite_a_wrong_clock_costs_an_attempt_and_nothing_else(service: Service, store: Store) -> None:
    """A reaper that is a minute ahead takes a live lease; the run that held it is refused from then on."""
    service.hold("1-candidate-1")
    job_id = service.create()
    service.worker()
    service.start("dispatcher", ["-m", "worker.dispatcher"])
    service.wait_for_work("1 candidate-1")
    reaper(service, **AHEAD)
    wait_until(lambda: "job.requeued" in events(service.database, job_id), 60)
    service.kill("reaper")
    reaper(service)
    service.wait_until_done(job_id)
    assert_delivered_once(service.database, store, job_id)
    assert load(service.database, job_id).status is JobStatus.SUCCEEDED
    assert load(service.database, job_id).losses <= 2
    assert set(service.done_twice()) <= {"candidate-1"}


def _now(service: Service) -> datetime:
    """The database's clock."""
    with service.database.session() as session:
        return session.execute(select(now(session))).scalar_one()
