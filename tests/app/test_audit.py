"""The audit trail: what was done, with which key, from where; written with the deed or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.auth import DENIALS_PER_ADDRESS, DENIALS_PER_MINUTE, Door
from app.keys.schemas import CreatedApiKey
from app.settings import Auth
from models.api_key import Scope
from models.audit import AuditEvent
from models.database import Database
from models.tables import Job
from tests.app.conftest import bearer


@pytest.fixture
def key(make_key: Callable[..., CreatedApiKey]) -> CreatedApiKey:
    return make_key()


@pytest.fixture
def trail(client: TestClient, key: CreatedApiKey) -> Callable[..., list[dict[str, Any]]]:
    """The tenant's events of an action, the oldest first."""

    def read(action: str) -> list[dict[str, Any]]:
        answer = client.get("/v1/audit", params={"action": action}, headers=bearer(key))
        return list(reversed(answer.json()["data"]))

    return read


def test_what_is_done_is_on_record(
    client: TestClient,
    key: CreatedApiKey,
    trail: Callable[..., list[dict[str, Any]]],
    spec: dict[str, Any],
    start_run: Callable[..., Any],
) -> None:
    headers = bearer(key) | {"X-Request-ID": "mine-1"}
    job_id = client.post("/v1/jobs", json=spec, headers=headers).json()["id"]
    client.post(f"/v1/jobs/{job_id}/cancel", headers=headers)
    upload = client.post(
        "/v1/uploads?kind=dataset&filename=d.csv", content=b"text,label\n", headers=headers
    ).json()
    client.delete(f"/v1/uploads/{upload['id']}", headers=headers)
    run = start_run()
    run.succeed(**{"model.onnx": b"weights"})
    file = f"/v1/jobs/{run.job_id}/artifacts/model.onnx"
    client.get(file, headers=headers | {"Range": "bytes=2-3"})
    client.head(file, headers=headers)
    client.get(file, headers=headers | {"If-None-Match": client.head(file, headers=headers).headers["ETag"]})
    other = client.post("/v1/keys", json={"name": "n", "scopes": ["jobs"]}, headers=headers).json()
    client.delete(f"/v1/keys/{other['id']}", headers=headers)
    expected = {
        "job.created": (job_id, {}),
        "job.cancelled": (job_id, {}),
        "upload.created": (upload["id"], {"kind": "dataset", "sha256": upload["sha256"]}),
        "upload.deleted": (upload["id"], {}),
        "artifact.downloaded": (run.job_id, {"name": "model.onnx", "first_byte": 2, "end_byte": 4}),
        "key.created": (other["id"], {"name": "n", "scopes": ["jobs"]}),
        "key.revoked": (other["id"], {"name": "n"}),
    }
    for action, (subject, data) in expected.items():
        event = trail(action)[-1]
        assert (event["subject"], event["data"]) == (subject, data)
        assert (event["key_id"], event["request_id"], event["address"]) == (key.id, "mine-1", "testclient")
    assert len(trail("artifact.downloaded")) == 1


def test_deed_and_record_are_one(
    client: TestClient,
    database: Database,
    spec: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no record")

    monkeypatch.setattr("app.audit.repository.record", broken)
    assert client.post("/v1/jobs", json=spec).status_code == 500
    with database.session() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_replay_of_a_request_is_no_second_deed(
    client: TestClient,
    key: CreatedApiKey,
    trail: Callable[..., list[dict[str, Any]]],
    spec: dict[str, Any],
) -> None:
    for _ in range(2):
        client.post("/v1/jobs", json=spec, headers=bearer(key) | {"Idempotency-Key": "once"})
    assert len(trail("job.created")) == 1


def test_events_come_by_the_page(client: TestClient, key: CreatedApiKey, spec: dict[str, Any]) -> None:
    made = [client.post("/v1/jobs", json=spec, headers=bearer(key)).json()["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        params = {"limit": 2, "action": "job.created"} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/audit", params=params, headers=bearer(key)).json()
        seen += [event["subject"] for event in page["data"]]
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert seen == made[::-1]


def test_refusals_are_on_record_under_the_tenant_they_concern(
    client: TestClient,
    key: CreatedApiKey,
    make_key: Callable[..., CreatedApiKey],
    trail: Callable[..., list[dict[str, Any]]],
    database: Database,
) -> None:
    narrow = make_key(Scope.UPLOADS)
    client.get("/v1/jobs", headers=bearer(narrow))
    forged = key.secret[:-4] + "----"
    client.get("/v1/jobs", headers={"Authorization": f"Bearer {forged}"})
    client.get("/v1/jobs", headers={"Authorization": "Bearer nonsense"})
    told = [(event["key_id"], event["data"]["reason"]) for event in trail("access.denied")]
    assert told == [(narrow.id, "missing_scope"), (key.id, "wrong_secret")]
    with database.session() as session:
        nobodys = session.scalars(select(AuditEvent).where(AuditEvent.tenant.is_(None))).one()
    assert (nobodys.key_id, nobodys.data) == (None, {"reason": "unknown_key"})


def test_flood_of_wrong_keys_does_not_fill_the_table(client: TestClient, database: Database) -> None:
    now = 0.0
    app: Any = client.app
    door = Door(database, app.state.context.threads, Auth.REQUIRED, clock=lambda: now)
    object.__setattr__(app.state.context, "door", door)

    def count() -> int:
        with database.session() as session:
            return session.scalar(select(func.count()).select_from(AuditEvent)) or 0

    for _ in range(DENIALS_PER_ADDRESS + 3):
        client.get("/v1/jobs", headers={"Authorization": "Bearer nonsense"})
    assert count() == DENIALS_PER_ADDRESS
    for number in range(DENIALS_PER_MINUTE):
        with_address = TestClient(app, client=(f"192.0.2.{number}", 1))
        with_address.get("/v1/jobs", headers={"Authorization": "Bearer nonsense"})
    assert count() == DENIALS_PER_MINUTE
    now = 61.0
    client.get("/v1/jobs", headers={"Authorization": "Bearer nonsense"})
    assert count() == DENIALS_PER_MINUTE + 1
