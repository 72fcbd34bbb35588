"""No route is forgotten: each says what a key must be good for, and shows no tenant what another has."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app import openapi
from app.keys.schemas import CreatedApiKey
from models.api_key import Scope
from models.settings import Settings
from tests.app.conftest import bearer

PATHS: dict[str, dict[str, Any]] = json.loads(openapi.snapshot())["paths"]
OPERATIONS = [(method.upper(), path) for path, methods in PATHS.items() for method in methods]
FOR_EVERYBODY = {"/healthz", "/readyz", "/metrics"}
OF_ONE_THING = [(method, path) for method, path in OPERATIONS if "{" in path]
LISTS = [
    (method, path)
    for method, path in OPERATIONS
    if method == "GET" and "{" not in path and path not in FOR_EVERYBODY
]


@dataclass(frozen=True)
class Possessions:
    """Something of every kind, all of it tenant a's."""

    key: CreatedApiKey
    ids: dict[str, str]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Webhooks need a key to derive their secrets from."""
    return settings.model_copy(update={"secret_key": SecretStr("k" * 40)})


@pytest.fixture
def possessions(
    client: TestClient, make_key: Callable[..., CreatedApiKey], start_run: Callable[..., Any]
) -> Possessions:
    key = make_key(tenant="a")
    run = start_run(tenant="a")
    run.candidate(0)
    run.event("told")
    run.succeed(**{"model.onnx": b"weights"})
    upload = client.post(
        "/v1/uploads?kind=dataset&filename=d.csv", content=b"text,label\n", headers=bearer(key)
    )
    webhook = client.post("/v1/webhooks", json={"url": "https://example.com/hook"}, headers=bearer(key))
    sent = client.post(f"/v1/webhooks/{webhook.json()['id']}/test", headers=bearer(key))
    ids = {
        "job_id": run.job_id,
        "number": "0",
        "name": "model.onnx",
        "upload_id": upload.json()["id"],
        "key_id": key.id,
        "webhook_id": webhook.json()["id"],
        "delivery_id": sent.json()["id"],
    }
    return Possessions(key, ids)


def test_every_operation_names_its_scope() -> None:
    for path, methods in PATHS.items():
        for method, operation in methods.items():
            if path in FOR_EVERYBODY:
                assert "security" not in operation, f"{method} {path}"
            else:
                ((scheme, scopes),) = operation["security"][0].items()
                assert scheme == "ApiKey", f"{method} {path}"
                assert len(scopes) == 1, f"{method} {path}"
                assert set(scopes) <= set(Scope), f"{method} {path}"


def test_nothing_is_served_beside_what_is_described(client: TestClient) -> None:
    app: Any = client.app
    hidden = {getattr(route, "path", None) for route in app.routes if not _is_described(route)}
    assert hidden <= {"/openapi.json"}


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_route_but_health_wants_a_key(
    client: TestClient, make_key: Callable[..., Any], method: str, path: str
) -> None:
    make_key()
    answer = client.request(method, path.replace("{number}", "0"))
    assert (answer.status_code == 401) is (path not in FOR_EVERYBODY)


@pytest.mark.parametrize(("method", "path"), OF_ONE_THING)
def test_what_another_tenant_has_does_not_exist(
    client: TestClient,
    possessions: Possessions,
    make_key: Callable[..., CreatedApiKey],
    method: str,
    path: str,
) -> None:
    """A new parameter fails here until `possessions` has such a thing."""
    url = path.format(**possessions.ids)
    body: dict[str, Any] | None = {} if method == "PATCH" else None
    stranger = client.request(method, url, json=body, headers=bearer(make_key(tenant="b")))
    assert stranger.status_code == 404
    assert client.request(method, url, json=body, headers=bearer(possessions.key)).status_code not in (
        401,
        403,
        404,
    )


@pytest.mark.parametrize(("method", "path"), LISTS)
def test_what_another_tenant_has_is_not_listed(
    client: TestClient,
    possessions: Possessions,
    make_key: Callable[..., CreatedApiKey],
    method: str,
    path: str,
) -> None:
    ids = [id for id in possessions.ids.values() if "_" in id]
    answer = client.request(method, path, headers=bearer(make_key(tenant="b")))
    assert answer.status_code == 200
    assert not [id for id in ids if id in answer.text]
    if path not in ("/v1/capabilities", "/v1/quota"):
        mine = client.request(method, path, headers=bearer(possessions.key))
        assert [id for id in ids if id in mine.text]


def test_another_tenants_upload_is_no_source(
    client: TestClient,
    possessions: Possessions,
    make_key: Callable[..., CreatedApiKey],
    spec: dict[str, Any],
) -> None:
    asked = {**spec, "dataset": {"upload": possessions.ids["upload_id"]}}
    assert client.post("/v1/jobs", json=asked, headers=bearer(possessions.key)).status_code == 202
    answer = client.post("/v1/jobs", json=asked, headers=bearer(make_key(tenant="b")))
    assert answer.status_code == 422
    assert "no upload of this id" in answer.json()["errors"][0]["detail"]


def test_idempotency_keys_of_two_tenants_do_not_meet(
    client: TestClient, make_key: Callable[..., CreatedApiKey], spec: dict[str, Any]
) -> None:
    ids = {
        client.post(
            "/v1/jobs", json=spec, headers=bearer(make_key(tenant=tenant)) | {"Idempotency-Key": "same"}
        ).json()["id"]
        for tenant in ("a", "b")
    }
    assert len(ids) == 2


def _is_described(route: Any) -> bool:
    return bool(getattr(route, "include_in_schema", False)) or not hasattr(route, "path")
