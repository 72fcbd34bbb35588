"""Downloads: whole, in parts, unchanged, and named safely."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from models.store import Store, blob_key

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = 'onnx/model é".onnx'


@pytest.fixture
def job_id(start_run: Callable[..., Any]) -> str:
    run = start_run()
    run.succeed(**{NAME: CONTENT, "certificate.json": b"{}"})
    return str(run.job_id)


@pytest.fixture
def url(client: TestClient, job_id: str) -> str:
    files = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    return next(str(file["url"]) for file in files if file["name"] == NAME)


def test_files_are_listed_by_name(client: TestClient, job_id: str) -> None:
    files = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    assert [file["name"] for file in files] == ["certificate.json", NAME]
    assert (files[1]["size"], files[1]["sha256"]) == (len(CONTENT), SHA256)
    assert client.get(f"/v1/jobs/{job_id}").json()["artifacts"] == files


def test_whole_file(client: TestClient, url: str) -> None:
    answer = client.get(url)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["ETag"] == f'"{SHA256}"'
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["Accept-Ranges"] == "bytes"
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    disposition = answer.headers["Content-Disposition"]
    assert disposition == "attachment; filename=\"model __.onnx\"; filename*=UTF-8''model%20%C3%A9%22.onnx"


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=10000-", 10000, len(CONTENT)),
        ("bytes=-7", len(CONTENT) - 7, len(CONTENT)),
        ("bytes=-99999", 0, len(CONTENT)),
        ("bytes=5-99999", 5, len(CONTENT)),
    ],
)
def test_one_range(client: TestClient, url: str, header: str, start: int, end: int) -> None:
    answer = client.get(url, headers={"Range": header})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert answer.headers["Content-Length"] == str(end - start)
    assert answer.headers["ETag"] == f'"{SHA256}"'


@pytest.mark.parametrize("header", ["bytes=99999-", f"bytes={len(CONTENT)}-", "bytes=-0"])
def test_range_outside_the_file(client: TestClient, url: str, header: str) -> None:
    answer = client.get(url, headers={"Range": header})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
    assert answer.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "header",
    [
        "bytes=0-1,4-5",
        "lines=1-2",
        "bytes=5-2",
        "bytes=-",
        "bytes",
        f"bytes={'9' * 5000}-",
        f"bytes=-{'9' * 5000}",
    ],
)
def test_other_ranges_give_the_whole_file(client: TestClient, url: str, header: str) -> None:
    answer = client.get(url, headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_range_goes_on_only_with_the_same_file(client: TestClient, url: str) -> None:
    part = {"Range": "bytes=5-9"}
    assert client.get(url, headers={**part, "If-Range": f'"{SHA256}"'}).status_code == 206
    for stale in ('"other"', f'W/"{SHA256}"', "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert client.get(url, headers={**part, "If-Range": stale}).content == CONTENT


@pytest.mark.parametrize("known", [f'"{SHA256}"', f'"other", W/"{SHA256}"', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_file_that_is_there_already_is_not_sent(
    client: TestClient, url: str, known: str, method: str
) -> None:
    answer = client.request(method, url, headers={"If-None-Match": known, "Range": "bytes=0-1"})
    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["ETag"] == f'"{SHA256}"'


def test_head_tells_size_and_digest(client: TestClient, url: str) -> None:
    head, get = client.head(url), client.get(url)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("Content-Length", "ETag", "Repr-Digest", "Content-Type", "Content-Disposition"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("name", ["missing.onnx", "..%2F..%2Fetc%2Fpasswd", "onnx"])
def test_names_that_the_job_did_not_deliver(client: TestClient, job_id: str, name: str) -> None:
    assert client.get(f"/v1/jobs/{job_id}/artifacts/{name}").status_code == 404


def test_bytes_that_the_store_lost(client: TestClient, url: str, store: Store) -> None:
    store.delete(blob_key(SHA256))
    answer = client.get(url)
    assert answer.status_code == 410
    assert answer.json()["code"] == "gone"


def test_candidates_by_number(client: TestClient, start_run: Callable[..., Any]) -> None:
    run = start_run()
    for number in range(5):
        run.candidate(number, accepted=number % 2 == 0)
    url = f"/v1/jobs/{run.job_id}/candidates"
    page = client.get(url, params={"limit": 2, "after": 1}).json()
    assert [candidate["number"] for candidate in page["data"]] == [2, 3]
    assert page["has_more"] is True
    accepted = client.get(url, params={"accepted": True}).json()["data"]
    assert [candidate["number"] for candidate in accepted] == [0, 2, 4]
    one = client.get(f"{url}/3").json()
    assert one["recipe"]["steps"] == [{"approximation": "prune_heads", "layer": 0, "heads": [3]}]
    assert one["measurements"]["metric"] == 0.9
    assert client.get(f"{url}/9").status_code == 404
    assert client.get(f"{url}/x").status_code == 422


class Signing:
    """A store that gives out addresses, over one that does not."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def presigned(self, key: str, seconds: float) -> str:
        return f"https://files.example/{key}?seconds={seconds:.0f}"


@pytest.fixture
def signing(client: TestClient) -> TestClient:
    """The client, of a service whose store signs and that is to make use of it."""
    context = client.app.state.context  # type: ignore[attr-defined]
    client.app.state.context = replace(  # type: ignore[attr-defined]
        context,
        store=Signing(context.store),
        api=context.api.model_copy(update={"presign_seconds": 300.0}),
    )
    client.follow_redirects = False
    return client


def test_whole_files_come_from_a_store_that_signs(signing: TestClient, url: str) -> None:
    answer = signing.get(url)
    assert answer.status_code == 307
    assert answer.headers["Location"] == f"https://files.example/{blob_key(SHA256)}?seconds=300"
    assert answer.headers["Cache-Control"] == "no-store"
    assert signing.head(url).status_code == 200
    assert signing.get(url, headers={"If-None-Match": f'"{SHA256}"'}).status_code == 304
    [event] = signing.get("/v1/audit", params={"action": "artifact.downloaded"}).json()["data"]
    assert event["data"] == {"name": NAME, "first_byte": 0, "end_byte": len(CONTENT)}


def test_parts_of_files_come_from_here(signing: TestClient, url: str) -> None:
    headers = {"Range": "bytes=100-", "If-Range": f'"{SHA256}"'}
    answer = signing.get(url, headers=headers)
    assert (answer.status_code, answer.content) == (206, CONTENT[100:])


def test_no_address_is_given_for_what_is_gone(signing: TestClient, store: Store, url: str) -> None:
    store.delete(blob_key(SHA256))
    answer = signing.get(url)
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")


def test_a_store_that_does_not_sign_is_served_from_here(client: TestClient, url: str) -> None:
    context = client.app.state.context  # type: ignore[attr-defined]
    api = context.api.model_copy(update={"presign_seconds": 300.0})
    client.app.state.context = replace(context, api=api)  # type: ignore[attr-defined]
    assert client.get(url).content == CONTENT
