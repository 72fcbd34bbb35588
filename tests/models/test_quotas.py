"""What a tenant may have: the claim passes over who runs enough, and runs are charged by their time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import update

from models import deadlines, lifecycle, queue, quotas
from models.base import utc_now
from models.database import Database
from models.job import DEFAULT_TENANT, Job, JobStatus
from models.lifecycle import JobError
from models.quota import UNLIMITED, ComputeUse
from models.quotas import Limits
from models.settings import Settings
from models.spec import JobSpec

ERROR = JobError(code="broken", detail="It broke.", remedy="Mend it.")


def add(database: Database, spec: JobSpec, tenant: str = DEFAULT_TENANT) -> str:
    with database.transaction() as session:
        return lifecycle.create(session, spec, tenant=tenant).id


def claim(database: Database, running_limit: int | None = None) -> lifecycle.ClaimedJob | None:
    with database.transaction() as session:
        return lifecycle.claim(session, "w", 60, running_limit=running_limit)


def claimed_id(database: Database) -> str | None:
    claimed = claim(database)
    return None if claimed is None else claimed.id


def limit(database: Database, tenant: str, **limits: float | None) -> None:
    with database.transaction() as session:
        quotas.set_limits(session, tenant, **limits)


def spend(database: Database, tenant: str, minutes: float, days_ago: int = 0) -> None:
    day = utc_now().date() - timedelta(days=days_ago)
    with database.transaction() as session:
        session.add(ComputeUse(tenant=tenant, day=day, seconds=minutes * 60))


def began_earlier(database: Database, job_id: str, **ago: float) -> None:
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(claimed_at=utc_now() - timedelta(**ago)))


def test_tenant_at_its_running_limit_is_passed_over(database: Database, spec: JobSpec) -> None:
    first, _second = add(database, spec, "busy"), add(database, spec, "busy")
    other = add(database, spec, "calm")
    claimed = claim(database, 1)
    assert claimed is not None
    assert claimed.id == first
    following = claim(database, 1)
    assert following is not None
    assert following.id == other
    assert claim(database, 1) is None
    with database.session() as session:
        assert queue.claimable(session, running_limit=1) == 0
        assert queue.claimable(session, running_limit=2) == 1
    with database.transaction() as session:
        lifecycle.fail(session, first, 1, ERROR)
    assert claim(database, 1) is not None


def test_own_limit_of_a_tenant_goes_before_the_default(database: Database, spec: JobSpec) -> None:
    for tenant in ("narrow", "narrow", "wide", "wide"):
        add(database, spec, tenant)
    limit(database, "narrow", running_jobs=1)
    limit(database, "wide", running_jobs=UNLIMITED)
    claimed = [claim(database, 1) for _ in range(4)]
    assert [job.tenant for job in claimed if job] == ["narrow", "wide", "wide"]
    limit(database, "narrow", running_jobs=None)
    assert claim(database, None) is not None


def test_running_limit_holds_when_many_claim_at_once(database: Database, spec: JobSpec) -> None:
    for _ in range(12):
        add(database, spec, "busy")
    together = threading.Barrier(6)

    def claim_together(_: int) -> bool:
        together.wait(timeout=30)
        return claim(database, 3) is not None

    with ThreadPoolExecutor(6) as pool:
        claimed = list(pool.map(claim_together, range(6)))
    assert claimed.count(True) == 3
    with database.session() as session:
        assert quotas.active_jobs(session, "busy", JobStatus.RUNNING) == 3
        assert quotas.active_jobs(session, "busy", JobStatus.QUEUED) == 9


@pytest.mark.parametrize("end", ["fail", "release", "cancel"])
def test_time_of_a_run_is_kept_and_charged(database: Database, spec: JobSpec, end: str) -> None:
    job_id = add(database, spec)
    claim(database)
    began_earlier(database, job_id, minutes=10)
    with database.session() as session:
        assert quotas.compute_minutes(session, DEFAULT_TENANT) == pytest.approx(10, abs=0.2)
    with database.transaction() as session:
        if end == "fail":
            lifecycle.fail(session, job_id, 1, ERROR)
        elif end == "release":
            lifecycle.release(session, job_id, 1, message="The worker stops.")
        else:
            lifecycle.request_cancel(session, job_id)
            lifecycle.cancel_run(session, job_id, 1)
    with database.session() as session:
        assert session.get_one(Job, job_id).run_seconds == pytest.approx(600, abs=10)
        assert quotas.compute_minutes(session, DEFAULT_TENANT) == pytest.approx(10, abs=0.2)
        assert quotas.compute_minutes(session, "other") == 0


def test_second_run_adds_to_the_first_and_waiting_is_free(database: Database, spec: JobSpec) -> None:
    job_id = add(database, spec)
    for minutes in (1, 2):
        claim(database)
        began_earlier(database, job_id, minutes=minutes)
        with database.session() as session:
            attempt = session.get_one(Job, job_id).attempt
        with database.transaction() as session:
            lifecycle.release(session, job_id, attempt, message="The worker stops.")
    with database.transaction() as session:
        lifecycle.request_cancel(session, job_id)
    with database.session() as session:
        assert session.get_one(Job, job_id).run_seconds == pytest.approx(180, abs=10)
        assert quotas.compute_minutes(session, DEFAULT_TENANT) == pytest.approx(3, abs=0.2)


def test_lost_run_is_charged_until_its_lease_ran_out(database: Database, spec: JobSpec) -> None:
    job_id = add(database, spec)
    claim(database)
    began_earlier(database, job_id, hours=10)
    with database.transaction() as session:
        session.execute(update(Job).values(lease_until=utc_now() - timedelta(hours=9)))
    with database.transaction() as session:
        lifecycle.requeue_expired(session, 3)
    with database.session() as session:
        assert session.get_one(Job, job_id).run_seconds == pytest.approx(3600, abs=10)


def test_what_ended_before_the_window_counts_no_more(database: Database) -> None:
    today = utc_now().date()
    with database.transaction() as session:
        for days, minutes in ((0, 1), (quotas.WINDOW_DAYS - 2, 2), (quotas.WINDOW_DAYS + 1, 4)):
            session.add(ComputeUse(tenant="t", day=today - timedelta(days=days), seconds=minutes * 60.0))
    with database.session() as session:
        assert quotas.compute_minutes(session, "t") == pytest.approx(3)


def test_tenant_that_has_used_up_its_minutes_is_passed_over(database: Database, spec: JobSpec) -> None:
    """Its jobs wait as they are, what runs goes on, and they are taken when there are minutes again."""
    running, waiting, others = add(database, spec, "spent"), add(database, spec, "spent"), add(database, spec)
    assert claimed_id(database) == running
    spend(database, "spent", 50)
    began_earlier(database, running, minutes=11)
    limit(database, "spent", compute_minutes=60)
    with database.session() as session:
        assert queue.out_of_minutes(session) == {"spent"}
        assert queue.claimable(session) == 1
    assert claimed_id(database) == others
    assert claim(database) is None
    with database.transaction() as session:
        assert lifecycle.heartbeat(session, running, 1, 60).held
    limit(database, "spent", compute_minutes=62)
    assert claimed_id(database) == waiting


@pytest.mark.parametrize(
    ("own", "default", "taken"),
    [
        (None, None, True),
        (None, 5, False),
        (UNLIMITED, 5, True),
        (20, 5, True),
        (5, None, False),
        (5, 20, False),
    ],
)
def test_minutes_of_the_service_hold_for_those_without_own(
    database: Database, spec: JobSpec, own: float | None, default: float | None, taken: bool
) -> None:
    add(database, spec, "t")
    spend(database, "t", 10)
    if own is not None:
        limit(database, "t", compute_minutes=own)
    with database.session() as session:
        assert queue.claimable(session, compute_minutes=default) == int(taken)
        assert queue.out_of_minutes(session, default) == (set() if taken else {"t"})
    with database.transaction() as session:
        assert (lifecycle.claim(session, "w", 60, compute_minutes=default) is not None) is taken


def test_jobs_go_on_when_old_days_leave_the_window(database: Database, spec: JobSpec) -> None:
    add(database, spec, "t")
    spend(database, "t", 10, days_ago=quotas.WINDOW_DAYS - 1)
    limit(database, "t", compute_minutes=10)
    assert claim(database) is None
    with database.transaction() as session:
        gone = utc_now().date() - timedelta(days=quotas.WINDOW_DAYS)
        session.execute(update(ComputeUse).values(day=gone))
    assert claim(database) is not None


def test_a_job_that_waited_too_long_for_minutes_says_so(database: Database, spec: JobSpec) -> None:
    held, other = add(database, spec, "spent"), add(database, spec)
    spend(database, "spent", 10)
    with database.transaction() as session:
        session.execute(update(Job).values(created_at=utc_now() - timedelta(hours=3)))
    with database.transaction() as session:
        assert set(deadlines.expire_queued(session, 2.0, compute_minutes=10)) == {held, other}
    with database.session() as session:
        told = {each: (session.get_one(Job, each).error or {}) for each in (held, other)}
    assert {error["code"] for error in told.values()} == {"queue_expired"}
    assert "minutes" in told[held]["detail"]
    assert "/v1/quota" in told[held]["remedy"]
    assert "minutes" not in told[other]["detail"]


def test_limits_are_settled_one_by_one(database: Database) -> None:
    settings = Settings(quota_queued_jobs=5, quota_stored_bytes=100)
    limit(database, "t", queued_jobs=UNLIMITED, compute_minutes=2.5)
    with database.session() as session:
        assert quotas.limits_of(session, "t", settings) == Limits(None, None, 100, 2.5)
        assert quotas.limits_of(session, "other", settings) == Limits(5, None, 100, None)
        assert quotas.tenants_with_limits(session) == ["t"]
