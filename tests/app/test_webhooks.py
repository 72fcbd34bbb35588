"""`/v1/webhooks` over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import select, update

from app.context import tenant_of
from app.main import create_app
from app.settings import ApiSettings
from models import lifecycle
from models.database import Database
from models.settings import Settings
from models.tables import Webhook, WebhookDelivery
from models.webhook import DeliveryStatus
from tests.app.conftest import Run
from tests.models.databases import BACKENDS, create_tables, fresh_database
from tests.receiver import Receiver, listening
from worker.deliverer import Deliverer

KEY = "k" * 40
URL = "https://example.com/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as receiver:
        yield receiver


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"secret_key": SecretStr(KEY), "outbound_http": True, "outbound_allow": ("127.0.0.1",)}
    )


@pytest.fixture
def client(settings: Settings, database: Database) -> Iterator[TestClient]:
    with TestClient(create_app(settings, ApiSettings(webhooks_max=3))) as client:
        yield client


def create(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/webhooks", json={"url": URL, **body})
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def deliver(database: Database, settings: Settings) -> None:
    deliverer = Deliverer(database, settings)
    deliverer.send_due()
    deliverer.close()


def test_a_webhook_and_its_secret(client: TestClient) -> None:
    answer = client.post("/v1/webhooks", json={"url": URL, "description": "mine"})
    created = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/webhooks/{created['id']}"
    assert answer.headers["Cache-Control"] == "no-store"
    assert created["secret"].startswith("whsec_")
    assert created["events"] == ["job.succeeded", "job.failed", "job.cancelled"]
    shown = client.get(answer.headers["Location"])
    assert shown.json() == {name: value for name, value in created.items() if name != "secret"}
    assert client.get("/v1/webhooks").json()["data"] == [shown.json()]
    assert create(client)["secret"] != created["secret"]
    assert client.delete(answer.headers["Location"]).status_code == 204
    assert client.get(answer.headers["Location"]).status_code == 404


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({}, "/url", "required"),
        ({"url": "http://10.0.0.1/"}, "/url", "public"),
        ({"url": "https://a:b@example.com/"}, "/url", "password"),
        ({"url": "https://example.com:22/"}, "/url", "port"),
        ({"url": "ftp://example.com/"}, "/url", "scheme"),
        ({"url": URL, "events": []}, "/events", "at least 1"),
        ({"url": URL, "events": ["job.succeded"]}, "/events/0", "job.succeeded"),
        ({"url": URL, "events": ["webhook.test"]}, "/events/0", "leave it out"),
        ({"url": URL, "enabled": "yes"}, "/enabled", "boolean"),
        ({"url": URL, "secret": "mine"}, "/secret", "no field"),
        ([], "", "object"),
    ],
)
def test_webhook_that_cannot_be(client: TestClient, body: Any, pointer: str, said: str) -> None:
    answer = client.post("/v1/webhooks", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    (error,) = problem["errors"]
    assert error["pointer"] == pointer
    assert said in error["detail"] + (error.get("remedy") or "")
    assert client.get("/v1/webhooks").json()["data"] == []


def test_no_more_than_so_many(client: TestClient) -> None:
    for _ in range(3):
        create(client)
    answer = client.post("/v1/webhooks", json={"url": URL})
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_webhooks")
    page = client.get("/v1/webhooks?limit=2").json()
    assert page["has_more"]
    rest = client.get("/v1/webhooks", params={"cursor": page["next_cursor"]}).json()
    assert len({each["id"] for each in page["data"] + rest["data"]}) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_more_than_so_many_when_they_come_at_once(
    settings: Settings, tmp_path: Path, backend: str
) -> None:
    with fresh_database(backend, tmp_path) as url:
        database = Database(url)
        create_tables(database)
        settings = settings.model_copy(update={"database_url": SecretStr(url)})
        with TestClient(create_app(settings, ApiSettings(webhooks_max=3))) as client:
            together = threading.Barrier(8)

            def post(_: int) -> int:
                together.wait(timeout=30)
                return client.post("/v1/webhooks", json={"url": URL}).status_code

            with ThreadPoolExecutor(8) as pool:
                statuses = sorted(pool.map(post, range(8)))
            assert statuses == [201] * 3 + [409] * 5
            assert len(client.get("/v1/webhooks").json()["data"]) == 3
        database.close()


def test_without_a_key_there_are_none(settings: Settings, database: Database) -> None:
    off = settings.model_copy(update={"secret_key": None})
    with TestClient(create_app(off, ApiSettings())) as client:
        answer = client.post("/v1/webhooks", json={"url": URL})
    assert (answer.status_code, answer.json()["code"]) == (503, "webhooks_off")
    assert "AXFORGE_SECRET_KEY" in answer.json()["remedy"]


def test_webhooks_of_others_are_not_there(client: TestClient) -> None:
    webhook = create(client)
    path = f"/v1/webhooks/{webhook['id']}"
    client.post(f"{path}/test")
    delivery = client.get(f"{path}/deliveries").json()["data"][0]["id"]
    client.app.dependency_overrides[tenant_of] = lambda: "other"  # type: ignore[attr-defined]
    assert client.get("/v1/webhooks").json()["data"] == []
    answers = [
        client.get(path),
        client.patch(path, json={"enabled": False}),
        client.delete(path),
        client.post(f"{path}/rotate"),
        client.post(f"{path}/test"),
        client.get(f"{path}/deliveries"),
        client.post(f"{path}/deliveries/{delivery}/replay"),
    ]
    assert [answer.status_code for answer in answers] == [404] * 7
    own = create(client)
    crossed = client.post(f"/v1/webhooks/{own['id']}/deliveries/{delivery}/replay")
    assert crossed.status_code == 404


def test_the_message_says_what_get_says(
    client: TestClient,
    database: Database,
    settings: Settings,
    receiver: Receiver,
    start_run: Callable[..., Run],
) -> None:
    secret = create(client, url=receiver.url)["secret"]
    run = start_run()
    run.succeed({"constraints_met": True, "ratios": {"speedup": 2.5}}, **{"model.onnx": b"bytes"})
    deliver(database, settings)
    (message,) = receiver.messages
    document = message.verified(secret)
    told = document["data"]
    assert isinstance(told, dict)
    shown = client.get(f"/v1/jobs/{run.job_id}").json()
    assert document["type"] == "job.succeeded"
    (told_file,), (shown_file,) = told.pop("artifacts"), shown.pop("artifacts")
    assert told_file.items() <= shown_file.items()
    assert told.items() >= {"status": "succeeded", "done": True, "constraints_met": True}.items()
    assert told == {name: shown[name] for name in told}
    assert set(shown) - set(told) == {"spec", "progress", "links", "cancel_requested"}


def test_try_log_replay(
    client: TestClient, database: Database, settings: Settings, receiver: Receiver
) -> None:
    path = f"/v1/webhooks/{create(client, url=receiver.url)['id']}"
    sent = client.post(f"{path}/test")
    assert (sent.status_code, sent.json()["type"], sent.json()["status"]) == (202, "webhook.test", "pending")
    assert sent.json()["next_attempt_at"] is not None
    deliver(database, settings)
    (row,) = client.get(f"{path}/deliveries?status=delivered").json()["data"]
    assert (row["id"], row["next_attempt_at"]) == (sent.json()["id"], None)
    (attempt,) = row["attempts"]
    assert (attempt["attempt"], attempt["status_code"], attempt["error"]) == (1, 204, None)
    assert client.get(f"{path}/deliveries?status=exhausted").json()["data"] == []
    again = client.post(f"{path}/deliveries/{row['id']}/replay")
    assert (again.status_code, again.json()["status"]) == (202, "pending")
    deliver(database, settings)
    assert [message.id for message in receiver.messages] == [row["id"]] * 2
    assert client.post(f"{path}/deliveries/msg_none/replay").status_code == 404


def test_rotate(client: TestClient, database: Database, settings: Settings, receiver: Receiver) -> None:
    created = create(client, url=receiver.url)
    path = f"/v1/webhooks/{created['id']}"
    rotated = client.post(f"{path}/rotate")
    assert rotated.headers["Cache-Control"] == "no-store"
    fresh = rotated.json()
    assert fresh["secret"] != created["secret"]
    assert fresh["previous_secret_until"] > fresh["updated_at"]
    assert "secret" not in client.get(path).json()
    client.post(f"{path}/test")
    deliver(database, settings)
    (message,) = receiver.messages
    assert message.verified(created["secret"]) == message.verified(fresh["secret"])


def test_disabled_waits_and_enabled_goes_on(
    client: TestClient, database: Database, add_job: Callable[..., str]
) -> None:
    path = f"/v1/webhooks/{create(client)['id']}"
    job_id = add_job()
    with database.transaction() as session:
        lifecycle.request_cancel(session, job_id)
    assert client.patch(path, json={"enabled": False}).json()["enabled"] is False
    (row,) = client.get(f"{path}/deliveries").json()["data"]
    assert (row["status"], row["job_id"]) == ("held", job_id)
    for refused in (f"{path}/test", f"{path}/deliveries/{row['id']}/replay"):
        answer = client.post(refused)
        assert (answer.status_code, answer.json()["code"]) == (409, "webhook_disabled")
    with database.transaction() as session:
        session.execute(update(Webhook).values(disabled_reason="gone"))
    assert client.get(path).json()["disabled_reason"] == "gone"
    changed = client.patch(path, json={"enabled": True, "description": "new", "events": ["job.failed"]})
    assert changed.json().items() >= {"enabled": True, "disabled_reason": None, "url": URL}.items()
    assert changed.json()["events"] == ["job.failed"]
    with database.session() as session:
        assert session.scalars(select(WebhookDelivery.status)).all() == [DeliveryStatus.PENDING]
    refused_url = client.patch(path, json={"url": "https://10.0.0.1/"})
    assert refused_url.json()["errors"][0]["pointer"] == "/url"
    assert client.get(path).json()["url"] == URL


def test_a_deleted_webhook_takes_its_deliveries_along(client: TestClient, database: Database) -> None:
    path = f"/v1/webhooks/{create(client)['id']}"
    client.post(f"{path}/test")
    client.delete(path)
    with database.session() as session:
        assert session.scalars(select(WebhookDelivery.id)).all() == []


def test_the_description_has_the_bodies(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/webhooks"]["post"]["requestBody"]["content"]["application/json"]
    assert body == {"schema": {"$ref": "#/components/schemas/NewWebhook"}}
    assert "url" in document["components"]["schemas"]["NewWebhook"]["required"]
    assert "secret" not in json.dumps(document["components"]["schemas"]["Webhook"]["properties"]["id"])
