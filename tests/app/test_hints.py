"""Hints go out behind the requests' backs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app import hints
from app.hints import MOST_WAITING, HintSender
from app.main import create_app
from app.settings import ApiSettings
from models.database import Database
from models.settings import Settings
from tests.worker.jobs import wait_until
from worker.celery_app import waiting_hints


class Broker:
    """Takes a hint only when it is let."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = threading.Event()
        self.sent = 0

    def send(self, device: str) -> None:
        self.asked.set()
        self.answers.wait()
        assert device == "cpu"
        self.sent += 1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    monkeypatch.setattr(hints, "PACE_SECONDS", 0.0)
    broker = Broker()
    yield broker
    broker.answers.set()


def test_nobody_waits_for_the_broker_and_what_is_too_much_is_forgotten(broker: Broker) -> None:
    others = set(threading.enumerate())
    sender = HintSender(broker.send)
    (thread,) = (new for new in set(threading.enumerate()) - others if new.name == "hints")
    sender.hint("cpu")
    assert broker.asked.wait(timeout=20)
    for _ in range(MOST_WAITING + 50):
        sender.hint("cpu")
    assert broker.sent == 0
    broker.answers.set()
    wait_until(lambda: broker.sent == 1 + MOST_WAITING)
    sender.hint("cpu")
    wait_until(lambda: broker.sent == 2 + MOST_WAITING)
    sender.close()
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_closing_does_not_wait_for_a_broker_that_is_away(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "LAST_SECONDS", 0.01)
    sender = HintSender(broker.send)
    sender.hint("cpu")
    assert broker.asked.wait(timeout=20)
    sender.close()
    assert broker.sent == 0


def test_a_created_job_is_hinted_at(
    settings: Settings, database: Database, spec: dict[str, Any], redis_url: str
) -> None:
    before = waiting_hints(redis_url)
    linked = Settings.model_validate({**settings.model_dump(), "broker_url": redis_url})
    with TestClient(create_app(linked, ApiSettings())) as client:
        once = {"Idempotency-Key": "one"}
        assert client.post("/v1/jobs", json=spec, headers=once).status_code == 202
        assert client.post("/v1/jobs", json=spec, headers=once).status_code == 202
        wait_until(lambda: waiting_hints(redis_url) > before)
    assert waiting_hints(redis_url) == before + 1
