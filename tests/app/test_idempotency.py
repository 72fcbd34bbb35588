"""A POST that is sent again with its key gets the first answer, and nothing is done twice."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from app.context import Context
from app.idempotency.service import Answer, Keyed, once, reserved
from app.main import create_app
from app.problems import IdempotencyKeyInUse
from app.settings import ApiSettings
from models.base import utc_now
from models.database import Database
from models.idempotency import IdempotencyKey
from models.settings import Settings

CSV = b"text,label\n" + b"good,1\nbad,0\n" * 20
KEY = {"Idempotency-Key": "again"}


def send(client: TestClient, content: bytes = CSV, **query: str) -> Any:
    parameters = {"kind": "dataset", "filename": "data.csv", **query}
    return client.post("/v1/uploads", params=parameters, content=content, headers=KEY)


def test_every_post_takes_a_key(settings: Settings) -> None:
    paths = create_app(settings, ApiSettings()).openapi()["paths"]
    posts = {path: operations["post"] for path, operations in paths.items() if "post" in operations}
    without = [
        path
        for path, operation in posts.items()
        if "idempotency-key" not in {one["name"].lower() for one in operation.get("parameters", [])}
    ]
    assert {"/v1/jobs", "/v1/uploads", "/v1/jobs/{job_id}/cancel"} <= posts.keys()
    assert without == []


def test_replayed_upload_is_the_first_one(client: TestClient) -> None:
    first, again = send(client), send(client)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert len(client.get("/v1/uploads").json()["data"]) == 1


def test_same_bytes_in_a_form_are_the_same_upload(client: TestClient) -> None:
    first = send(client)
    files = {"file": ("data.csv", CSV)}
    again = client.post("/v1/uploads?kind=dataset", files=files, headers=KEY)
    assert again.json() == first.json()


@pytest.mark.parametrize(
    "change", [{"content": CSV + b"fine,1\n"}, {"filename": "other.csv"}], ids=["bytes", "name"]
)
def test_key_with_another_upload_is_refused(client: TestClient, change: dict[str, Any]) -> None:
    send(client)
    answer = send(client, **change)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert len(client.get("/v1/uploads").json()["data"]) == 1


def test_key_of_one_operation_is_refused_for_another(client: TestClient, spec: dict[str, Any]) -> None:
    job = client.post("/v1/jobs", json=spec, headers=KEY).json()
    answer = client.post(f"/v1/jobs/{job['id']}/cancel", headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "queued"


def test_refused_upload_leaves_its_key_free(client: TestClient) -> None:
    digest = hashlib.sha256(CSV).hexdigest()
    damaged = send(client, CSV.replace(b"good", b"gxxd", 1), sha256=digest)
    assert damaged.json()["code"] == "invalid_upload"
    whole = send(client, sha256=digest)
    assert whole.status_code == 201
    assert "Idempotency-Replayed" not in whole.headers


def test_cancel_is_replayed(client: TestClient, start_run: Callable[..., Any]) -> None:
    run = start_run()
    first = client.post(f"/v1/jobs/{run.job_id}/cancel", headers=KEY)
    again = client.post(f"/v1/jobs/{run.job_id}/cancel", headers=KEY)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Idempotency-Replayed"] == "true"


def test_failed_cancel_is_not_kept(client: TestClient, start_run: Callable[..., Any]) -> None:
    run = start_run()
    run.succeed()
    for _ in range(2):
        answer = client.post(f"/v1/jobs/{run.job_id}/cancel", headers=KEY)
        assert (answer.status_code, answer.json()["code"]) == (409, "job_done")


def test_second_upload_while_the_first_arrives_is_told_to_wait(client: TestClient) -> None:
    half, go_on = threading.Event(), threading.Event()
    answers: list[Any] = []

    def slowly() -> Iterator[bytes]:
        yield CSV
        half.set()
        go_on.wait(timeout=30)
        yield b"fine,1\n"

    def first() -> None:
        parameters = {"kind": "dataset", "filename": "data.csv"}
        answers.append(client.post("/v1/uploads", params=parameters, content=slowly(), headers=KEY))

    context: Context = client.app.state.context  # type: ignore[attr-defined]
    with reserved(context, "default", Keyed("again", "POST /v1/uploads")):
        second = send(client)
    assert (second.status_code, second.json()["code"]) == (409, "idempotency_key_in_use")
    assert int(second.headers["Retry-After"]) >= 1
    assert second.json()["retryable"] is True
    thread = threading.Thread(target=first)
    thread.start()
    half.wait(timeout=30)
    go_on.set()
    thread.join()
    assert answers[0].status_code == 201


def test_key_of_a_request_that_died_can_be_taken(client: TestClient, database: Database) -> None:
    context: Context = client.app.state.context  # type: ignore[attr-defined]
    with reserved(context, "default", Keyed("again", "POST /v1/uploads")) as dead:
        with database.transaction() as session:
            session.execute(update(IdempotencyKey).values(held_until=utc_now()))
        first = send(client)
        assert first.status_code == 201
        # The one that was thought dead comes back: it must not overwrite the answer.
        with pytest.raises(IdempotencyKeyInUse), database.transaction() as session:
            dead.settle(session, "late", Answer(201, "{}"))
    assert send(client).json() == first.json()


def test_secret_is_not_kept(client: TestClient, database: Database) -> None:
    context: Context = client.app.state.context  # type: ignore[attr-defined]
    request = Keyed("again", "POST /v1/secrets")
    secret = Answer(201, '{"secret":"s3cret"}', kept_body='{"secret":null}')
    first = once(context, "default", request, "", lambda _: secret)
    again = once(context, "default", request, "", lambda _: secret)
    assert (first.body, first.replayed) == (secret.body, False)
    assert (again.body, again.replayed) == ('{"secret":null}', True)
    with database.session() as session:
        assert "s3cret" not in session.scalars(select(IdempotencyKey.body)).one()


def test_tenants_do_not_share_keys(client: TestClient) -> None:
    context: Context = client.app.state.context  # type: ignore[attr-defined]
    request = Keyed("again", "POST /v1/things")
    for tenant in ("one", "other"):
        answer = once(context, tenant, request, tenant, lambda _: Answer(201, "{}"))
        assert not answer.replayed
