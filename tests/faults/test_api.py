"""The HTTP face killed: what it answered is kept, and asking again makes nothing twice."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from models.store import Store
from tests.faults.effects import assert_delivered_once
from tests.faults.service import Service
from tests.worker.jobs import SPEC

pytestmark = pytest.mark.slow


def post(url: str, key: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/v1/jobs",
        json.dumps(SPEC).encode(),
        {"Content-Type": "application/json", "Idempotency-Key": key},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        document: dict[str, Any] = json.loads(answer.read())
    return document


def test_a_killed_api_loses_and_doubles_no_job(service: Service, store: Store) -> None:
    created = post(service.api(), "only-once")["id"]
    service.kill("api")
    service.redis.client.flushall()  # as if it had died before the hint
    service.worker()
    service.keepers()
    url = service.api()
    assert post(url, "only-once")["id"] == created
    service.kill("api")
    service.wait_until_done(created)
    assert_delivered_once(service.database, store, created)
    assert service.done_twice() == {}
