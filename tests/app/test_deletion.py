"""Deleting jobs and uploads, and files whose time is over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from models.base import utc_now
from models.blob import BlobRow
from models.database import Database
from models.job import Job
from models.settings import Settings
from models.store import Store
from worker import collector

RAW = {"Content-Type": "application/octet-stream"}


def send(client: TestClient, content: bytes) -> Any:
    params = {"kind": "dataset", "filename": "d.csv"}
    return client.post("/v1/uploads", params=params, content=content, headers=RAW)


def test_a_deleted_job_is_gone_with_its_files(
    client: TestClient, database: Database, store: Store, settings: Settings, start_run: Callable[..., Any]
) -> None:
    run = start_run()
    path = f"/v1/jobs/{run.job_id}"
    refused = client.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "job_not_done")
    assert "/cancel" in refused.json()["remedy"]
    run.event("seen")
    run.candidate(0)
    run.succeed(model=b"model")
    assert client.delete(path).status_code == 204
    for gone in (path, f"{path}/events", f"{path}/artifacts", f"{path}/artifacts/model"):
        assert client.get(gone).status_code == 404
    assert client.delete(path).status_code == 404
    assert run.job_id not in client.get("/v1/jobs").text
    collector.collect(database, store, settings)
    assert list(store.list("")) == []


def test_another_tenants_job_cannot_be_deleted(
    client: TestClient, database: Database, start_run: Callable[..., Any]
) -> None:
    run = start_run(tenant="other")
    run.succeed()
    assert client.delete(f"/v1/jobs/{run.job_id}").status_code == 404
    with database.session() as session:
        assert session.get(Job, run.job_id) is not None


def test_files_whose_time_is_over_are_said_to_be_gone(
    client: TestClient, database: Database, store: Store, settings: Settings, start_run: Callable[..., Any]
) -> None:
    run = start_run()
    run.succeed(model=b"model")
    past = utc_now() - timedelta(days=1)
    with database.transaction() as session:
        session.execute(update(Job).values(expires_at=past, sweep_at=past))
    collector.round(database, store, settings)
    answer = client.get(f"/v1/jobs/{run.job_id}/artifacts/model")
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    assert f"{past:%Y-%m-%d}" in answer.json()["detail"]
    job = client.get(f"/v1/jobs/{run.job_id}").json()
    assert job["artifacts"] == []
    assert job["expires_at"] is not None


def test_a_removed_uploads_bytes_go_unless_they_are_shared(
    client: TestClient, database: Database, store: Store, settings: Settings
) -> None:
    first, second = (send(client, b"a,b\n1,2\n").json()["id"] for _ in range(2))
    client.delete(f"/v1/uploads/{first}")
    collector.collect(database, store, settings)
    assert len(list(store.list("sha256"))) == 1
    client.delete(f"/v1/uploads/{second}")
    collector.collect(database, store, settings)
    assert list(store.list("sha256")) == []
    again = send(client, b"a,b\n1,2\n").json()
    assert [key.endswith(f"{again['sha256']}.1") for key in store.list("sha256")] == [True]


def test_an_upload_overtaken_by_the_collector_is_asked_for_again(
    client: TestClient, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are found in the store, and given up before the row is written."""
    client.delete(f"/v1/uploads/{send(client, b'a,b').json()['id']}")
    store = client.app.state.context.store  # type: ignore[attr-defined]
    holds = type(store)._holds
    overtaken = []

    def found_then_given_up(self: Store, blob: Any) -> bool:
        found = bool(holds(self, blob))
        if not overtaken:
            with database.transaction() as session:  # as if the grace had passed meanwhile
                session.execute(update(BlobRow).values(check_at=utc_now() - timedelta(1)))
            collector.round(database, store, settings)
            overtaken.append(found)
        return found

    monkeypatch.setattr(type(store), "_holds", found_then_given_up)
    answer = send(client, b"a,b")
    assert overtaken == [True]
    assert (answer.status_code, answer.json()["retryable"]) == (503, True)
    answer = send(client, b"a,b")
    assert answer.status_code == 201
    assert len(list(store.list("sha256"))) == 1
