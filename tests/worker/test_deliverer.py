"""The deliverer: signed messages to a receiver on loopback, whatever that one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select, update
from standardwebhooks.webhooks import WebhookVerificationError
from structlog.testing import capture_logs

from models import lifecycle
from models.base import new_id, utc_now
from models.database import Database
from models.settings import Settings
from models.signing import new_secret
from models.tables import Webhook, WebhookDelivery
from models.webhook import DEFAULT_EVENTS, DeliveryStatus
from tests.receiver import Behaviour, Receiver, answering, listening
from tests.worker.jobs import create, wait_until
from worker.deliverer import Deliverer, NoSecretKey, run_forever

KEY = "k" * 40
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as receiver:
        yield receiver


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "secret_key": SecretStr(KEY),
            "outbound_http": True,
            "outbound_allow": ("127.0.0.1",),
            "webhook_timeout_seconds": 20.0,
            "deliver_seconds": 0.02,
        }
    )


def add(database: Database, url: str) -> tuple[str, str]:
    """Stores a webhook; its id and secret."""
    webhook_id = new_id("whk")
    fresh = new_secret(KEY, webhook_id)
    with database.transaction() as session:
        session.add(
            Webhook(
                id=webhook_id,
                url=url,
                events=list(DEFAULT_EVENTS),
                salt=fresh.salt,
                secret_check=fresh.check,
            )
        )
    return webhook_id, fresh.secret


def cancel_a_job(database: Database) -> str:
    job_id = create(database)
    with database.transaction() as session:
        lifecycle.request_cancel(session, job_id)
    return job_id


def deliver(database: Database, settings: Settings) -> int:
    """One round, to its end."""
    deliverer = Deliverer(database, settings)
    try:
        return deliverer.send_due()
    finally:
        deliverer.close()


def only(database: Database) -> WebhookDelivery:
    with database.session() as session:
        return session.scalars(select(WebhookDelivery)).one()


def test_a_message_is_signed_and_says_what_happened(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    _, secret = add(database, receiver.url)
    job_id = cancel_a_job(database)
    assert deliver(database, settings) == 1
    (message,) = receiver.messages
    document = message.verified(secret)
    assert document["type"] == "job.cancelled"
    assert document["data"]["id"] == job_id  # type: ignore[index]
    assert message.headers["Content-Type"] == "application/json"
    row = only(database)
    assert (row.id, row.status, row.delivered_at is None) == (message.id, DeliveryStatus.DELIVERED, False)
    assert row.tries[0]["status_code"] == 204
    assert deliver(database, settings) == 0
    message.body += b" "
    with pytest.raises(WebhookVerificationError):
        message.verified(secret)


def test_after_a_rotation_both_secrets_verify_for_a_while(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    webhook_id, old = add(database, receiver.url)
    fresh = new_secret(KEY, webhook_id)
    for hours in (1, -1):
        with database.transaction() as session:
            webhook = session.get_one(Webhook, webhook_id)
            webhook.previous_salt = webhook.previous_salt or webhook.salt
            webhook.previous_until = utc_now() + timedelta(hours=hours)
            webhook.salt, webhook.secret_check = fresh.salt, fresh.check
        cancel_a_job(database)
        deliver(database, settings)
    during, behind = receiver.messages
    assert during.verified(old) == during.verified(fresh.secret)
    assert behind.verified(fresh.secret)
    with pytest.raises(WebhookVerificationError):
        behind.verified(old)


@pytest.mark.parametrize(
    ("behaviour", "status_code", "said"),
    [
        (answering(500, b"out\x00 of order" + b"!" * 500), 500, "answered 500"),
        (answering(400), 400, "answered 400"),
        (answering(301, Location="http://127.0.0.1:1/"), 301, "redirects are not followed"),
        (answering(307, Location="http://127.0.0.1:1/"), 307, "redirects are not followed"),
        (answering(304), 304, "redirects are not followed"),
        (lambda request: request.connection.close(), None, "The connection failed"),
        (lambda request: request.wfile.write(b"what?\r\n\r\n"), None, "BadStatusLine"),
    ],
)
def test_what_is_no_success_is_tried_again(
    database: Database,
    settings: Settings,
    receiver: Receiver,
    behaviour: Behaviour,
    status_code: int | None,
    said: str,
) -> None:
    add(database, receiver.url)
    cancel_a_job(database)
    receiver.behaviour = behaviour
    deliver(database, settings)
    row = only(database)
    (attempt,) = row.tries
    assert (row.status, attempt["status_code"]) == (DeliveryStatus.PENDING, status_code)
    assert said in attempt["error"]
    assert len(attempt["response"]) <= 200
    assert "\x00" not in attempt["response"]
    receiver.behaviour = answering(200)
    with database.transaction() as session:
        session.execute(update(WebhookDelivery).values(available_at=utc_now() - timedelta(seconds=1)))
    deliver(database, settings)
    assert only(database).status == DeliveryStatus.DELIVERED
    assert {message.id for message in receiver.messages} == {row.id}
    assert len({message.body for message in receiver.messages}) == 1


def test_a_receiver_that_hangs_holds_up_itself_only(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    settings = settings.model_copy(update={"webhook_timeout_seconds": 0.3})
    add(database, receiver.url)
    receiver.behaviour = receiver.hang
    with listening() as other:
        add(database, other.url)
        cancel_a_job(database)
        assert deliver(database, settings) == 2
        assert len(other.messages) == 1
    with database.session() as session:
        errors = {row.tries[0]["error"] for row in session.scalars(select(WebhookDelivery))}
    assert errors == {None, "There was no answer within 0.3 seconds."}


def test_a_receiver_that_is_gone_is_disabled(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    webhook_id, _ = add(database, receiver.url)
    cancel_a_job(database)
    receiver.behaviour = answering(410)
    deliver(database, settings)
    with database.session() as session:
        webhook = session.get_one(Webhook, webhook_id)
    assert (webhook.enabled, webhook.disabled_reason) == (False, "gone")
    cancel_a_job(database)
    assert deliver(database, settings) == 0


def test_an_address_that_is_not_allowed_is_never_reached(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    add(database, receiver.url)
    cancel_a_job(database)
    deliver(database, settings.model_copy(update={"outbound_allow": ()}))
    assert receiver.messages == []
    assert "not on the public internet" in only(database).tries[0]["error"]


def test_another_key_sends_nothing_with_a_wrong_signature(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    add(database, receiver.url)
    cancel_a_job(database)
    deliver(database, settings.model_copy(update={"secret_key": SecretStr("x" * 40)}))
    assert receiver.messages == []
    assert "rotate" in only(database).tries[0]["error"]
    with pytest.raises(NoSecretKey):
        Deliverer(database, settings.model_copy(update={"secret_key": None}))


def test_two_deliverers_share_the_work(database: Database, settings: Settings, receiver: Receiver) -> None:
    for _ in range(4):
        add(database, receiver.url)
    for _ in range(5):
        cancel_a_job(database)
    stop = threading.Event()
    loops = [threading.Thread(target=run_forever, args=(stop, settings)) for _ in range(2)]
    for loop in loops:
        loop.start()
    try:
        wait_until(lambda: _pending(database) == 0)
    finally:
        stop.set()
        for loop in loops:
            loop.join()
    assert len(receiver.messages) == 20
    assert len({message.id for message in receiver.messages}) == 20


def test_what_a_killed_deliverer_held_is_sent_by_another(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    _, secret = add(database, receiver.url)
    cancel_a_job(database)
    receiver.behaviour = receiver.hang
    environment = {**os.environ, **settings.environment(), "AXFORGE_SECRET_KEY": KEY}
    process = subprocess.Popen([sys.executable, "-m", "worker.deliverer"], cwd=ROOT, env=environment)
    try:
        wait_until(lambda: receiver.messages, 60)
        assert deliver(database, settings) == 0  # another sender leaves it alone
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    receiver.released.set()
    receiver.behaviour = answering(204)
    with database.transaction() as session:
        session.execute(update(WebhookDelivery).values(lease_until=utc_now() - timedelta(seconds=1)))
    assert deliver(database, settings) == 1
    first, second = receiver.messages
    assert first.id == second.id
    assert first.verified(secret) == second.verified(secret)
    assert only(database).status == DeliveryStatus.DELIVERED


def test_neither_secret_nor_address_is_logged_or_stored(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    with capture_logs() as logged:
        _, secret = add(database, receiver.url + "/token-in-the-path")
        cancel_a_job(database)
        receiver.behaviour = answering(500)
        deliver(database, settings)
    assert "delivery_failed" in [entry["event"] for entry in logged]
    with database.engine.connect() as connection:
        stored = [
            dict(row._mapping)
            for table in Webhook.metadata.sorted_tables
            for row in connection.execute(select(table))
        ]
    seen = json.dumps(stored, default=str)
    assert len(receiver.messages) == 1
    for hidden in (secret, secret.removeprefix("whsec_"), KEY):
        assert hidden not in seen + str(logged)
    assert "token-in-the-path" not in str(logged)


def _pending(database: Database) -> int:
    with database.session() as session:
        rows = session.scalars(select(WebhookDelivery))
        return sum(row.status == DeliveryStatus.PENDING for row in rows)
