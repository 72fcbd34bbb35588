"""What the service asks all the time reads a few rows, however many there are.

Filled as an old and busy service is. On Postgres the plan is executed and its rows counted; on SQLite
the plan must use an index, and the steps of its virtual machine are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.events import repository as events
from app.jobs import repository as jobs
from app.jobs.repository import JobFilter
from app.pages import Position
from app.uploads import repository as uploads
from bench.fill import fill
from models import blobs, deadlines, lifecycle, queue, retention, shards, usage
from models.base import utc_now
from models.database import Database
from models.job import DEFAULT_TENANT, JobStatus
from models.retention import Keeping
from models.tables import Base
from tests.models.databases import BACKENDS, fresh_database
from tests.models.plans import watched

JOBS = 50_000
MOST_ROWS = 1500  # the dispatcher counts up to 1,000
MOST_STEPS = 40_000
CLAIM_STEPS = 2_500
MINUTES_STEPS = 7_500  # adds up a month of each tenant that waits, however many jobs there are
KEEPING = Keeping(upload_days=30, event_days=90, idempotency_hours=24, audit_days=400)
DEEP = Position(utc_now() - timedelta(seconds=JOBS / 2), "job_")

ASKED: dict[str, Callable[[Session], object]] = {
    "claim": lambda session: lifecycle.claim(session, "w", 60.0),
    "claim within limits": lambda session: lifecycle.claim(session, "w", 60.0, running_limit=5),
    "claim within minutes": lambda session: lifecycle.claim(session, "w", 60.0, compute_minutes=1e6),
    "claim, all minutes used up": lambda session: lifecycle.claim(session, "w", 60.0, compute_minutes=1.0),
    "tenants without minutes": lambda session: queue.out_of_minutes(session, 1.0),
    "dispatcher's count": queue.claimable,
    "dispatcher's count within limits": lambda session: queue.claimable(session, running_limit=5),
    "claim a share": lambda session: shards.claim(session, "w", 60.0),
    "dispatcher's count of shares": shards.claimable,
    "leases that ran out": lambda session: lifecycle.requeue_expired(session, 3),
    "queued for too long": lambda session: deadlines.expire_queued(session, 1e6),
    "runs for too long": lambda session: deadlines.stop_overdue(session, factor=3.0, extra_minutes=1e6),
    "list": lambda session: jobs.page(session, DEFAULT_TENANT, JobFilter(), None, 20),
    "list, deep": lambda session: jobs.page(session, DEFAULT_TENANT, JobFilter(), DEEP, 20),
    "list by status": lambda session: jobs.page(
        session, DEFAULT_TENANT, JobFilter(statuses=(JobStatus.CANCELLED, JobStatus.RUNNING)), DEEP, 20
    ),
    "list by name": lambda session: jobs.page(session, DEFAULT_TENANT, JobFilter(name="job"), DEEP, 20),
    "list by name and status": lambda session: jobs.page(
        session, DEFAULT_TENANT, JobFilter(statuses=(JobStatus.FAILED,), name="rare"), None, 20
    ),
    "list by time": lambda session: jobs.page(
        session,
        DEFAULT_TENANT,
        JobFilter(created_after=DEEP.created_at - timedelta(hours=1), created_before=DEEP.created_at),
        None,
        20,
    ),
    "a job": lambda session: jobs.existing(session, DEFAULT_TENANT, "job_000000000001"),
    "events": lambda session: events.page(session, "job_000000000001", 0, 100),
    "uploads": lambda session: uploads.page(session, DEFAULT_TENANT, None, DEEP, 20),
    "stored bytes": lambda session: usage.stored_bytes(session, DEFAULT_TENANT),
    "collect jobs": lambda session: retention.sweep_jobs(session, KEEPING),
    "collect uploads": lambda session: retention.expire_uploads(session, KEEPING),
    "collect idempotency keys": lambda session: retention.forget_idempotency_keys(session, KEEPING),
    "collect audit events": lambda session: retention.forget_audit_events(session, KEEPING),
    "collect blobs": lambda session: blobs.give_up(session, 100),
}


@pytest.fixture(scope="module", params=BACKENDS)
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with fresh_database(request.param, tmp_path_factory.mktemp("plans")) as url:
        database = Database(url)
        Base.metadata.create_all(database.engine)
        fill(database, JOBS, queued=0.5, around=True)
        yield database
        database.close()


@pytest.mark.parametrize("name", ASKED)
def test_a_few_rows_are_read_of_many(database: Database, name: str) -> None:
    with watched(database) as seen, database.rehearsal() as session:
        ASKED[name](session)
        assert seen.statements >= 1
    assert seen.scanned == set()
    assert seen.most_rows <= MOST_ROWS
    assert seen.steps <= most_steps(name)


def most_steps(name: str) -> int:
    if "minutes" in name:
        return MINUTES_STEPS
    return CLAIM_STEPS if name.startswith("claim") else MOST_STEPS


def test_a_scan_would_be_seen(database: Database) -> None:
    with watched(database) as seen, database.rehearsal() as session:
        session.execute(text("SELECT id FROM job WHERE worker = 'none' ORDER BY spec_digest")).all()
    assert seen.scanned == {"job"}
    assert seen.most_rows > MOST_ROWS or seen.steps > MOST_STEPS
