"""A tenant gets no more than it may have, and is told the limit, the use and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.main import create_app
from app.quotas.command import app as command
from app.settings import ApiSettings
from models import quotas
from models.base import utc_now
from models.database import Database
from models.quota import UNLIMITED, ComputeUse
from models.settings import Settings
from tests.app.conftest import UPLOAD_LIMIT

CSV = b"text,label\n" + b"good,1\nbad,0\n" * 100
NAMED = {"kind": "dataset", "filename": "data.csv"}


@pytest.fixture
def limit(database: Database) -> Callable[..., None]:
    def set_limits(**limits: float | None) -> None:
        with database.transaction() as session:
            quotas.set_limits(session, "default", **limits)

    return set_limits


def test_queue_takes_so_many_jobs_and_no_more(
    client: TestClient, spec: dict[str, Any], limit: Callable[..., None]
) -> None:
    limit(queued_jobs=2)
    key = {"Idempotency-Key": "second"}
    first = client.post("/v1/jobs", json=spec)
    second = client.post("/v1/jobs", json=spec, headers=key)
    third = client.post("/v1/jobs", json=spec)
    assert (first.status_code, second.status_code, third.status_code) == (202, 202, 429)
    problem = third.json()
    assert problem["code"] == "queue_quota_exceeded"
    assert problem["quota"] == {"name": "queued_jobs", "limit": 2, "used": 2}
    assert problem["retryable"] is True
    assert "queued jobs is 2" in problem["detail"]
    assert "cancel one" in problem["remedy"]
    assert int(third.headers["Retry-After"]) > 0
    assert client.post("/v1/jobs", json=spec, headers=key).json()["id"] == second.json()["id"]
    client.post(f"/v1/jobs/{first.json()['id']}/cancel")
    assert client.post("/v1/jobs", json=spec).status_code == 202


def test_default_of_the_settings_holds_unless_the_tenant_has_its_own(
    settings: Settings, database: Database, spec: dict[str, Any], limit: Callable[..., None]
) -> None:
    narrow = settings.model_copy(update={"quota_queued_jobs": 1})
    with TestClient(create_app(narrow, ApiSettings())) as client:
        assert [client.post("/v1/jobs", json=spec).status_code for _ in range(2)] == [202, 429]
        limit(queued_jobs=UNLIMITED)
        assert client.post("/v1/jobs", json=spec).status_code == 202
        limit(queued_jobs=None)
        assert client.post("/v1/jobs", json=spec).status_code == 429


def test_jobs_are_refused_when_the_minutes_are_used_up(
    client: TestClient, database: Database, spec: dict[str, Any], limit: Callable[..., None]
) -> None:
    limit(compute_minutes=10)
    assert client.post("/v1/jobs", json=spec).status_code == 202
    with database.transaction() as session:
        session.add(ComputeUse(tenant="default", day=utc_now().date(), seconds=601))
    answer = client.post("/v1/jobs", json=spec)
    assert (answer.status_code, answer.json()["code"]) == (403, "compute_quota_exceeded")
    assert answer.json()["quota"] == {"name": "compute_minutes", "limit": 10, "used": 10.02}
    assert "30 days" in answer.json()["remedy"]


def test_what_queued_jobs_wait_for_is_told(
    client: TestClient,
    database: Database,
    spec: dict[str, Any],
    start_run: Callable[..., Any],
    limit: Callable[..., None],
) -> None:
    def told() -> str | None:
        answer: str | None = client.get("/v1/quota").json()["waiting_for"]
        return answer

    start_run()
    limit(running_jobs=1)
    assert told() is None
    client.post("/v1/jobs", json=spec)
    assert told() == "running_jobs"
    limit(compute_minutes=10)
    assert told() == "running_jobs"
    with database.transaction() as session:
        session.add(ComputeUse(tenant="default", day=utc_now().date(), seconds=601))
    assert told() == "compute_minutes"
    limit(compute_minutes=UNLIMITED, running_jobs=UNLIMITED)
    assert told() is None


def test_upload_that_says_it_is_too_large_is_refused_before_it_is_read(
    client: TestClient, limit: Callable[..., None]
) -> None:
    limit(stored_bytes=1000)
    headers = {"Content-Length": "123456"}  # much more than is sent: nobody waits for it
    answer = client.post("/v1/uploads", params=NAMED, content=CSV[:50], headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "storage_quota_exceeded")
    assert answer.json()["quota"] == {"name": "stored_bytes", "limit": 1000, "used": 0, "asked": 123_456}
    assert "1,000" in answer.json()["detail"]
    assert "123,456" in answer.json()["detail"]
    assert "DELETE /v1/uploads" in answer.json()["remedy"]


def test_upload_of_unknown_length_is_refused_while_it_arrives(
    client: TestClient, limit: Callable[..., None], settings: Settings
) -> None:
    limit(stored_bytes=1000)
    answer = client.post("/v1/uploads", params=NAMED, content=iter([CSV, CSV]))
    assert (answer.status_code, answer.json()["code"]) == (403, "storage_quota_exceeded")
    assert answer.json()["quota"] == {"name": "stored_bytes", "limit": 1000, "used": 0}
    assert client.get("/v1/uploads").json()["data"] == []
    assert [path for path in (settings.data_dir / "objects").rglob("*") if path.is_file()] == []


def test_uploads_and_artifacts_count_together(
    client: TestClient, limit: Callable[..., None], start_run: Callable[..., Any]
) -> None:
    start_run().succeed(model=bytes(600))
    limit(stored_bytes=600 + len(CSV))
    assert client.post("/v1/uploads", params=NAMED, content=CSV).status_code == 201
    refused = client.post("/v1/uploads", params=NAMED, content=b"a,b\n")
    assert refused.json()["quota"]["used"] == 600 + len(CSV)
    upload = client.get("/v1/uploads").json()["data"][0]
    client.delete(f"/v1/uploads/{upload['id']}")
    assert client.post("/v1/uploads", params=NAMED, content=CSV).status_code == 201


def test_replayed_upload_needs_no_room(client: TestClient, limit: Callable[..., None]) -> None:
    limit(stored_bytes=len(CSV))
    sent = [
        client.post("/v1/uploads", params=NAMED, content=CSV, headers={"Idempotency-Key": "k"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in sent] == [201, 201]
    assert sent[1].headers["Idempotency-Replayed"] == "true"


def test_limit_of_the_service_is_not_told_as_the_tenants(
    client: TestClient, limit: Callable[..., None]
) -> None:
    limit(stored_bytes=10 * UPLOAD_LIMIT)
    answer = client.post("/v1/uploads", params=NAMED, content=iter([CSV] * (UPLOAD_LIMIT // len(CSV) + 1)))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_quota_shows_limits_and_use(
    client: TestClient, limit: Callable[..., None], start_run: Callable[..., Any], spec: dict[str, Any]
) -> None:
    start_run()
    client.post("/v1/jobs", json=spec)
    client.post("/v1/uploads", params=NAMED, content=CSV)
    limit(queued_jobs=5, stored_bytes=10_000)
    quota = client.get("/v1/quota").json()
    assert quota["object"] == "quota"
    assert quota["queued_jobs"] == {"limit": 5, "used": 1}
    assert quota["running_jobs"] == {"limit": None, "used": 1}
    assert quota["stored_bytes"] == {"limit": 10_000, "used": len(CSV)}
    assert quota["compute_minutes"]["limit"] is None
    assert quota["window_days"] == quotas.WINDOW_DAYS


def test_command_sets_and_shows(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AXFORGE_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("AXFORGE_QUOTA_RUNNING_JOBS", "4")
    run = CliRunner().invoke
    done = run(command, ["set", "team", "--max-queued", "10", "--max-bytes", "unlimited"])
    assert done.exit_code == 0, done.output
    shown = dict(line.split(maxsplit=1) for line in run(command, ["show", "team"]).output.splitlines())
    assert shown == {
        "queued_jobs": "0 of 10",
        "running_jobs": "0 of 4",
        "stored_bytes": "0 of unlimited",
        "compute_minutes": "0 of unlimited",
    }
    run(command, ["set", "team", "--max-queued", "default", "--max-minutes", "1.5"])
    with database.session() as session:
        assert quotas.limits_of(session, "team", Settings()) == quotas.Limits(None, 4, None, 1.5)


@pytest.mark.parametrize(
    "options", [[], ["--max-queued", "many"], ["--max-queued", "-3"], ["--max-running", "0"]]
)
def test_command_refuses_what_is_no_limit(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("AXFORGE_DATA_DIR", str(settings.data_dir))
    assert CliRunner().invoke(command, ["set", "team", *options]).exit_code == 2
    with database.session() as session:
        assert quotas.tenants_with_limits(session) == []
