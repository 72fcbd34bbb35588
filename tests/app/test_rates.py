"""Requests that come too fast are told when to come again; a counter that is down stops nobody."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError

from app.main import create_app
from app.settings import ApiSettings
from models.database import Database
from models.settings import Settings
from tests.conftest import free_port


def served(settings: Settings, broker: str | None = None, **rates: str) -> TestClient:
    if broker is not None:
        settings = settings.model_copy(update={"broker_url": SecretStr(broker)})
    app = create_app(settings, ApiSettings(**rates))  # type: ignore[arg-type]
    return TestClient(app, client=("127.0.0.1", 50000))  # who may read /metrics


def test_too_many_requests_are_refused_with_the_time_to_wait(settings: Settings, database: Database) -> None:
    with served(settings, rate_reads="2/minute") as client:
        answers = [client.get("/v1/jobs") for _ in range(3)]
        page = client.get("/metrics").text
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["RateLimit"].split(";")[1] for answer in answers] == ["r=1", "r=0", "r=0"]
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"reads";q=2;w=60'}
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
    problem = answers[2].json()
    assert (problem["code"], problem["retryable"]) == ("rate_limited", True)
    assert "2 requests in 60 seconds" in problem["detail"]
    assert 'axforge_rate_limited_total{class="reads"} 1.0' in page
    assert 'axforge_rate_limited_total{class="writes"} 0.0' in page
    assert "axforge_rate_limit_failures_total 0.0" in page


def test_classes_are_counted_apart(settings: Settings, database: Database, spec: dict[str, Any]) -> None:
    with served(settings, rate_reads="1/minute", rate_writes="1/minute", rate_streams="1/minute") as client:
        job = client.post("/v1/jobs", json=spec)
        path = f"/v1/jobs/{job.json()['id']}"
        assert job.headers["RateLimit"].startswith('"writes";r=0')
        assert client.get(path).headers["RateLimit"].startswith('"reads";r=0')
        assert client.get(path, headers={"Prefer": "wait=0"}).headers["RateLimit"].startswith('"streams"')
        assert client.post(f"{path}/cancel").status_code == 429
        assert client.get(path, headers={"Accept": "text/event-stream"}).status_code == 429
        assert client.get("/v1/quota").status_code == 429


def test_health_is_never_limited(settings: Settings, database: Database) -> None:
    with served(settings, rate_reads="1/minute") as client:
        for path in ("/healthz", "/readyz"):
            assert [client.get(path).status_code for _ in range(3)] == [200, 200, 200]


def test_without_limits_there_are_no_headers(client: TestClient) -> None:
    assert not [name for name in client.get("/v1/jobs").headers if "ratelimit" in name.lower()]


def test_processes_on_one_redis_share_the_count(
    settings: Settings, database: Database, redis_url: str
) -> None:
    with (
        served(settings, redis_url, rate_reads="3/minute") as one,
        served(settings, redis_url, rate_reads="3/minute") as other,
    ):
        statuses = [client.get("/v1/jobs").status_code for client in (one, other, one, other, one)]
    assert statuses == [200, 200, 200, 429, 429]


def test_requests_are_let_in_when_redis_is_down(settings: Settings, database: Database) -> None:
    with served(settings, f"redis://127.0.0.1:{free_port()}/0", rate_reads="1/minute") as client:
        statuses = [client.get("/v1/jobs").status_code for _ in range(3)]
        page = client.get("/metrics").text
    assert statuses == [200, 200, 200]
    # After the first failure nobody waits for Redis for a while.
    assert "axforge_rate_limit_failures_total 1.0" in page


def test_a_rate_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="rate_reads"):
        ApiSettings(rate_reads="often")
