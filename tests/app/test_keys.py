"""API keys: shown once, stored as a digest, let in by their scopes, refused as soon as they are revoked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import select, update

from app.keys.schemas import CreatedApiKey
from app.main import create_app
from app.settings import ApiSettings, Auth
from migrations import upgrade
from models.api_key import SECRET, ApiKey, Scope
from models.base import utc_now
from models.database import Database
from models.settings import Settings
from tests.app.conftest import bearer
from tests.models.databases import BACKENDS, fresh_database

MakeKey = Callable[..., CreatedApiKey]
UNKNOWN_KEY = "axf_" + "0" * 28 + "_" + "a" * 43


def _row(database: Database, key_id: str) -> ApiKey:
    with database.session() as session:
        return session.scalars(select(ApiKey).where(ApiKey.id == key_id)).one()


def test_secret_is_shown_once_and_stored_as_a_digest(client: TestClient, database: Database) -> None:
    answer = client.post("/v1/keys", json={"name": "ci", "scopes": ["jobs", "admin"]})
    created = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Location"] == f"/v1/keys/{created['id']}"
    assert SECRET.fullmatch(created["secret"])
    row = _row(database, created["id"])
    assert row.hash == hashlib.sha256(created["secret"].encode()).hexdigest()
    assert created["secret"] not in str(vars(row))
    headers = {"Authorization": f"Bearer {created.pop('secret')}"}
    shown = client.get(f"/v1/keys/{created['id']}", headers=headers)
    assert shown.json() == created | {"last_used_at": shown.json()["last_used_at"]}
    assert client.get("/v1/keys", headers=headers).json()["data"] == [shown.json()]


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ({"scopes": ["jobs"]}, "/name", "`name` is required"),
        ({"name": "x", "scopes": []}, "/scopes", "at least 1"),
        ({"name": "x", "scopes": ["job"]}, "/scopes/0", "'jobs'"),
        ({"name": "x", "scopes": ["jobs", "jobs"]}, "/scopes", "Named twice: jobs"),
        ({"name": "x", "scopes": ["jobs"], "tenant": "other"}, "/tenant", "no field `tenant`"),
        (
            {"name": "x", "scopes": ["jobs"], "expires_at": "2020-01-01T00:00:00Z"},
            "/expires_at",
            "expired already",
        ),
        (
            {"name": "x", "scopes": ["jobs"], "expires_at": "9999-12-31T23:59:59-14:00"},
            "/expires_at",
            "years 1 and 9999",
        ),
        ({"name": "a\nb", "scopes": ["jobs"]}, "/name", "match pattern"),
    ],
)
def test_wrong_field_is_pointed_at(
    client: TestClient, body: dict[str, Any], pointer: str, detail: str
) -> None:
    answer = client.post("/v1/keys", json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert detail in error["detail"]
    assert client.get("/v1/keys").json()["data"] == []


def test_keys_are_listed_by_the_page(client: TestClient, make_key: MakeKey) -> None:
    made = [make_key() for _ in range(3)]
    headers = bearer(made[0])
    first = client.get("/v1/keys?limit=2", headers=headers).json()
    second = client.get("/v1/keys", params={"cursor": first["next_cursor"]}, headers=headers).json()
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert {key["id"] for key in first["data"] + second["data"]} == {key.id for key in made}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Bearer",
        "Basic dTpw",
        "Bearer wrong",
        f"Bearer {UNKNOWN_KEY}",
        "Bearer {secret}x",
        "Bearer {other_id}{own_random}",
    ],
)
def test_who_has_no_valid_key_is_turned_away(
    client: TestClient, make_key: MakeKey, header: str | None
) -> None:
    key, other = make_key(), make_key(tenant="other")
    filled = header and header.format(
        secret=key.secret, other_id=other.secret[:33], own_random=key.secret[33:]
    )
    answer = client.get("/v1/jobs", headers={"Authorization": filled} if filled else {})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="axforge"')
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthenticated"
    assert answer.json()["remedy"]
    assert client.get("/v1/jobs", headers=bearer(key)).status_code == 200


def test_revoked_key_opens_nothing_at_once(client: TestClient, make_key: MakeKey) -> None:
    admin, key = make_key(), make_key()
    assert client.get("/v1/jobs", headers=bearer(key)).status_code == 200
    assert client.delete(f"/v1/keys/{key.id}", headers=bearer(admin)).status_code == 204
    answer = client.get("/v1/jobs", headers=bearer(key))
    assert answer.status_code == 401
    assert answer.json()["detail"] == "The API key is revoked."
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert client.delete(f"/v1/keys/{key.id}", headers=bearer(admin)).status_code == 204
    trail = client.get("/v1/audit?action=key.revoked", headers=bearer(admin)).json()["data"]
    assert [event["subject"] for event in trail] == [key.id]


def test_expired_key_opens_nothing(client: TestClient, make_key: MakeKey, database: Database) -> None:
    key = make_key(expires_at=utc_now() + timedelta(hours=1))
    assert client.get("/v1/jobs", headers=bearer(key)).status_code == 200
    with database.transaction() as session:
        session.execute(update(ApiKey).values(expires_at=utc_now() - timedelta(seconds=1)))
    answer = client.get("/v1/jobs", headers=bearer(key))
    assert answer.status_code == 401
    assert answer.json()["detail"] == "The API key is expired."


def test_use_is_noted_at_most_once_a_minute(
    client: TestClient, make_key: MakeKey, database: Database
) -> None:
    key = make_key()
    for seconds, is_noted in ((59, False), (61, True)):
        before = utc_now() - timedelta(seconds=seconds)
        with database.transaction() as session:
            session.execute(update(ApiKey).values(last_used_at=before))
        assert client.get("/v1/jobs", headers=bearer(key)).status_code == 200
        assert (_row(database, key.id).last_used_at != before) is is_noted


ROUTES = [
    ("GET", "/v1/jobs", Scope.JOBS),
    ("POST", "/v1/jobs", Scope.JOBS),
    ("GET", "/v1/jobs/job_1/events", Scope.JOBS),
    ("GET", "/v1/jobs/job_1/candidates", Scope.JOBS),
    ("GET", "/v1/jobs/job_1/artifacts", Scope.ARTIFACTS),
    ("GET", "/v1/uploads", Scope.UPLOADS),
    ("GET", "/v1/keys", Scope.ADMIN),
    ("POST", "/v1/keys", Scope.ADMIN),
    ("GET", "/v1/audit", Scope.ADMIN),
]


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
def test_scope_that_is_missing_is_named(
    client: TestClient, make_key: MakeKey, method: str, path: str, scope: Scope
) -> None:
    others = [other for other in Scope if other is not scope]
    answer = client.request(method, path, headers=bearer(make_key(*others)))
    assert answer.status_code == 403
    assert answer.json()["code"] == "missing_scope"
    assert f"`{scope.value}`" in answer.json()["detail"]
    assert f'scope="{scope.value}"' in answer.headers["WWW-Authenticate"]
    assert client.request(method, path, headers=bearer(make_key(scope))).status_code not in (401, 403)


def test_the_first_key_shuts_the_door_for_good(client: TestClient) -> None:
    assert client.get("/v1/jobs").status_code == 200
    created = client.post("/v1/keys", json={"name": "first", "scopes": ["admin"]}).json()
    assert client.get("/v1/jobs").status_code == 401
    headers = {"Authorization": f"Bearer {created['secret']}"}
    assert client.delete(f"/v1/keys/{created['id']}", headers=headers).status_code == 204
    assert client.get("/v1/jobs").status_code == 401
    assert client.get("/healthz").status_code == client.get("/openapi.json").status_code == 200


def test_key_that_another_process_created_shuts_the_door(
    client: TestClient, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.auth.LOOK_SECONDS", 0.0)
    assert client.get("/v1/jobs").status_code == 200
    make_key()
    assert client.get("/v1/jobs").status_code == 401


HERE = ("127.0.0.1", 50000)


@pytest.mark.parametrize(
    ("auth", "peer", "url", "headers", "status"),
    [
        (Auth.AUTO, HERE, "http://127.0.0.1:8000", {}, 200),
        (Auth.AUTO, HERE, "http://localhost", {}, 200),
        (Auth.AUTO, ("::1", 1), "http://[::1]:8000", {}, 200),
        (Auth.AUTO, ("::ffff:127.0.0.1", 1), "http://localhost", {}, 200),
        (Auth.AUTO, HERE, "http://localhost", {"Origin": "http://localhost:8000"}, 200),
        (Auth.AUTO, ("192.0.2.7", 1), "http://localhost", {}, 401),
        (Auth.AUTO, HERE, "http://rebound.example", {}, 401),
        (Auth.AUTO, HERE, "http://localhost", {"Host": "["}, 401),
        (Auth.AUTO, HERE, "http://localhost", {"Origin": "https://page.example"}, 401),
        (Auth.AUTO, HERE, "http://localhost", {"Origin": "null"}, 401),
        (Auth.OPEN, ("192.0.2.7", 1), "http://any.example", {}, 200),
        (Auth.OPEN, HERE, "http://localhost", {"Authorization": f"Bearer {UNKNOWN_KEY}"}, 401),
        (Auth.REQUIRED, HERE, "http://localhost", {}, 401),
    ],
)
def test_who_is_served_before_there_are_keys(
    application: Callable[..., Any],
    auth: Auth,
    peer: tuple[str, int],
    url: str,
    headers: dict[str, str],
    status: int,
) -> None:
    with TestClient(application(ApiSettings(auth=auth)), base_url=url, client=peer) as client:
        assert client.get("/v1/jobs", headers=headers).status_code == status


def test_stream_ends_when_its_key_is_revoked(
    client: TestClient, make_key: MakeKey, start_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.events.endpoints.ADMISSION_SECONDS", 0.0)
    monkeypatch.setattr("app.events.endpoints.HEARTBEAT_SECONDS", 0.05)
    admin, key, job_id = make_key(), make_key(), start_run().job_id
    headers = bearer(key) | {"Accept": "text/event-stream"}
    revoked = False
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        for line in stream.iter_lines():
            if not revoked and line == "event: progress":
                client.delete(f"/v1/keys/{key.id}", headers=bearer(admin))
                revoked = True
            assert line != "event: end"
    assert revoked


def test_paths_of_the_machine_are_for_those_who_need_no_key(
    application: Callable[..., Any], make_key: MakeKey, spec: dict[str, Any]
) -> None:
    asked = {**spec, "dataset": {"path": "/srv/data.csv"}}
    with TestClient(application(allow_paths=True)) as client:
        assert client.post("/v1/jobs", json=asked).status_code == 202
        assert "path" in client.get("/v1/capabilities").json()["sources"]
    headers = bearer(make_key())
    with TestClient(application(allow_paths=True), headers=headers) as client:
        answer = client.post("/v1/jobs", json=asked)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/dataset/path"
        assert "path" not in client.get("/v1/capabilities").json()["sources"]
    with TestClient(application(allow_paths=True, allow_paths_with_keys=True), headers=headers) as client:
        assert client.post("/v1/jobs", json=asked).status_code == 202


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_and_trail_on_every_database(backend: str, tmp_path: Path) -> None:
    with fresh_database(backend, tmp_path) as url:
        upgrade(url)
        settings = Settings(data_dir=tmp_path, database_url=SecretStr(url))
        with TestClient(create_app(settings, ApiSettings())) as client:
            made = client.post("/v1/keys", json={"name": "first", "scopes": list(Scope)}).json()
            client.headers["Authorization"] = f"Bearer {made['secret']}"
            for _ in range(3):
                client.post("/v1/keys", json={"name": "more", "scopes": ["jobs"]})
            page = client.get("/v1/keys?limit=3").json()
            rest = client.get("/v1/keys", params={"cursor": page["next_cursor"]}).json()
            assert [key["name"] for key in page["data"] + rest["data"]] == ["more"] * 3 + ["first"]
            assert rest["data"][0]["last_used_at"] is not None
            trail = client.get("/v1/audit?limit=2").json()
            older = client.get("/v1/audit", params={"cursor": trail["next_cursor"]}).json()
            assert {event["action"] for event in trail["data"] + older["data"]} == {"key.created"}
            assert client.get("/v1/keys/a%00b").status_code in (404, 422)
            assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
            assert client.get("/v1/jobs").status_code == 401
