"""Deliveries: written with the event that they tell, held by one sender, tried again, given up."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from models import lifecycle, outbox
from models.base import utc_now
from models.database import Database
from models.lifecycle import JobError
from models.outbox import MAX_FAILURES, ClaimedDelivery, Outcome, Recorded
from models.spec import JobSpec
from models.tables import Webhook, WebhookDelivery
from models.webhook import DEFAULT_EVENTS, SELECTABLE_EVENTS, DeliveryStatus

BROKEN = JobError(code="dataset_labels", detail="One class only.", remedy="Add rows.")
TAKEN = Outcome(duration_ms=3, status_code=200)
FAILED = Outcome(duration_ms=3, status_code=500, error="The receiver answered 500.")
GONE = Outcome(duration_ms=3, status_code=410, error="The receiver answered 410.")

Add = Callable[..., str]


@pytest.fixture
def add(database: Database) -> Add:
    """Stores a webhook and gives its id."""

    def add(*events: str, tenant: str = "default", enabled: bool = True) -> str:
        with database.transaction() as session:
            webhook = Webhook(
                tenant=tenant,
                url="https://example.com/",
                events=list(events or DEFAULT_EVENTS),
                enabled=enabled,
                salt="s",
                secret_check="c",
            )
            session.add(webhook)
            session.flush()
            return webhook.id

    return add


def end_job(database: Database, spec: JobSpec, *, tenant: str = "default") -> str:
    """A job that was created, started and failed."""
    with database.transaction() as session:
        job_id = lifecycle.create(session, spec, tenant=tenant).id
        lifecycle.claim_one(session, job_id, "w", 60)
        lifecycle.fail(session, job_id, 1, BROKEN)
    return job_id


def claim(database: Database, limit: int = 10) -> list[ClaimedDelivery]:
    with database.transaction() as session:
        return outbox.claim(session, limit, 60)


def record(database: Database, claimed: ClaimedDelivery, outcome: Outcome) -> Recorded | None:
    with database.transaction() as session:
        return outbox.record(session, claimed, outcome)


def rows(database: Database) -> list[WebhookDelivery]:
    with database.session() as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))


def make_due(database: Database) -> None:
    with database.transaction() as session:
        past = utc_now() - timedelta(seconds=1)
        session.execute(update(WebhookDelivery).values(available_at=past))


def webhook_of(database: Database, webhook_id: str) -> Webhook:
    with database.session() as session:
        return session.get_one(Webhook, webhook_id)


def test_every_event_goes_to_who_wants_it(database: Database, spec: JobSpec, add: Add) -> None:
    every, ends = add(*SELECTABLE_EVENTS), add()
    add(enabled=False)
    add(tenant="other")
    add("job.succeeded")
    job_id = end_job(database, spec)
    sent = [(row.webhook_id, row.type) for row in rows(database)]
    assert [type for webhook_id, type in sent if webhook_id == every] == [
        "job.created",
        "job.started",
        "job.failed",
    ]
    assert [type for webhook_id, type in sent if webhook_id == ends] == ["job.failed"]
    assert len(sent) == 4
    document = json.loads(next(row.payload for row in rows(database) if row.webhook_id == ends))
    assert document["type"] == "job.failed"
    assert document["data"]["id"] == job_id
    assert document["data"]["error"]["code"] == "dataset_labels"
    assert "spec" not in document["data"]


def test_nothing_is_told_of_what_was_rolled_back(database: Database, spec: JobSpec, add: Add) -> None:
    add("job.created")

    def create_and_fail() -> None:
        with database.transaction() as session:
            lifecycle.create(session, spec)
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        create_and_fail()
    assert rows(database) == []


def test_a_webhook_is_sent_one_at_a_time_and_the_oldest_first(
    database: Database, spec: JobSpec, add: Add
) -> None:
    busy, other = add(), add()
    jobs = [end_job(database, spec) for _ in range(2)]
    first = claim(database)
    assert sorted(each.webhook_id for each in first) == sorted([busy, other])
    assert {json.loads(each.payload)["data"]["id"] for each in first} == {jobs[0]}
    assert claim(database) == []
    done = next(each for each in first if each.webhook_id == busy)
    assert record(database, done, TAKEN) == Recorded(DeliveryStatus.DELIVERED)
    (second,) = claim(database)
    assert (second.webhook_id, json.loads(second.payload)["data"]["id"]) == (busy, jobs[1])


def test_healthy_webhooks_go_first(database: Database, spec: JobSpec, add: Add) -> None:
    failing, healthy = add(), add()
    end_job(database, spec)
    with database.transaction() as session:
        session.execute(update(Webhook).where(Webhook.id == failing).values(failing_since=utc_now()))
    assert [each.webhook_id for each in claim(database, 1)] == [healthy]
    assert [each.webhook_id for each in claim(database, 1)] == [failing]


def test_a_sender_that_was_silent_too_long_records_nothing(
    database: Database, spec: JobSpec, add: Add
) -> None:
    add()
    end_job(database, spec)
    (lost,) = claim(database)
    with database.transaction() as session:
        session.execute(update(WebhookDelivery).values(lease_until=utc_now() - timedelta(seconds=1)))
    (again,) = claim(database)
    assert (again.id, again.attempt) == (lost.id, 2)
    assert record(database, lost, FAILED) is None
    assert record(database, again, TAKEN) == Recorded(DeliveryStatus.DELIVERED)
    assert record(database, again, FAILED) is None
    (row,) = rows(database)
    assert [(each["attempt"], each["error"]) for each in row.tries] == [(2, None)]


def test_failures_are_tried_again_for_a_day_and_then_given_up(
    database: Database, spec: JobSpec, add: Add
) -> None:
    webhook_id = add()
    end_job(database, spec)
    for attempt in range(1, MAX_FAILURES + 1):
        (claimed,) = claim(database)
        before = utc_now()
        recorded = record(database, claimed, FAILED)
        (row,) = rows(database)
        assert claim(database) == []
        if attempt < MAX_FAILURES:
            assert recorded == Recorded(DeliveryStatus.PENDING)
            low, high = (outbox.delay_before(attempt, jitter) for jitter in (-1, 1))
            wait = (row.available_at - before).total_seconds()
            assert low - 1 < wait < high + 5
            make_due(database)
    assert recorded == Recorded(DeliveryStatus.EXHAUSTED)
    assert len(row.tries) == MAX_FAILURES
    webhook = webhook_of(database, webhook_id)
    assert webhook.enabled
    assert webhook.failing_since is not None
    total = sum(outbox.delay_before(failures, 0) for failures in range(1, MAX_FAILURES))
    assert 22 * 3600 < total < 28 * 3600


def test_retry_after_is_kept_to(database: Database, spec: JobSpec, add: Add) -> None:
    add()
    end_job(database, spec)
    (claimed,) = claim(database)
    record(database, claimed, Outcome(duration_ms=1, status_code=429, error="429", retry_after=3600))
    (row,) = rows(database)
    assert row.available_at > utc_now() + timedelta(minutes=59)


@pytest.mark.parametrize(
    ("failing_for", "outcome", "reason"),
    [
        (timedelta(0), GONE, "gone"),
        (timedelta(days=6), FAILED, "failing"),
        (timedelta(days=4), FAILED, None),
    ],
)
def test_who_is_not_there_any_more_is_disabled(
    database: Database,
    spec: JobSpec,
    add: Add,
    failing_for: timedelta,
    outcome: Outcome,
    reason: str | None,
) -> None:
    webhook_id, watcher = add(), add("webhook.disabled")
    end_job(database, spec)
    end_job(database, spec)
    with database.transaction() as session:
        since = utc_now() - failing_for if failing_for else None
        session.execute(update(Webhook).where(Webhook.id == webhook_id).values(failing_since=since))
    (claimed,) = claim(database)
    recorded = record(database, claimed, outcome)
    assert recorded is not None
    assert recorded.disabled == reason
    webhook = webhook_of(database, webhook_id)
    assert (webhook.enabled, webhook.disabled_reason) == (reason is None, reason)
    told = [json.loads(row.payload)["data"] for row in rows(database) if row.webhook_id == watcher]
    assert [data["disabled_reason"] for data in told] == ([reason] if reason else [])
    if reason is None:
        return
    waiting = [row.status for row in rows(database) if row.webhook_id == webhook_id]
    assert DeliveryStatus.PENDING not in waiting
    assert DeliveryStatus.HELD in waiting
    assert [each.webhook_id for each in claim(database)] == [watcher]
    with database.transaction() as session:
        outbox.resume(session, session.get_one(Webhook, webhook_id))
    make_due(database)
    assert webhook_id in [each.webhook_id for each in claim(database)]


def test_a_success_ends_a_row_of_failures(database: Database, spec: JobSpec, add: Add) -> None:
    webhook_id = add()
    end_job(database, spec)
    for outcome in (FAILED, TAKEN):
        make_due(database)
        (claimed,) = claim(database)
        record(database, claimed, outcome)
    assert webhook_of(database, webhook_id).failing_since is None


def test_a_replay_is_the_same_message(database: Database, spec: JobSpec, add: Add) -> None:
    add()
    end_job(database, spec)
    (claimed,) = claim(database)
    record(database, claimed, TAKEN)
    with database.transaction() as session:
        outbox.replay(session, session.get_one(WebhookDelivery, claimed.id))
    (again,) = claim(database)
    assert (again.id, again.payload, again.attempt) == (claimed.id, claimed.payload, 2)
    with database.transaction() as session:
        outbox.replay(session, session.get_one(WebhookDelivery, claimed.id))
    assert record(database, again, FAILED) is None
    assert len(claim(database)) == 1


def test_old_deliveries_are_forgotten(database: Database, spec: JobSpec, add: Add) -> None:
    add()
    for days in (32, 31, 29):
        end_job(database, spec)
        with database.transaction() as session:
            newest = select(func.max(WebhookDelivery.id)).scalar_subquery()
            session.execute(
                update(WebhookDelivery)
                .where(WebhookDelivery.id == newest)
                .values(created_at=utc_now() - timedelta(days=days))
            )
    with database.transaction() as session:
        assert outbox.forget(session, 30, limit=1) == 1
    assert len(rows(database)) == 2
    with database.transaction() as session:
        assert outbox.forget(session, 30) == 1
        assert outbox.forget(session, 30) == 0
    assert len(rows(database)) == 1
