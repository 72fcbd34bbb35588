"""Uploads: streamed, checked, limited, and gone without a trace when refused."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from models.settings import Settings
from models.store import Store, StoreFull, blob_key

CSV = b"text,label\nhello,a\nbye,b\n"
CSV_SHA256 = hashlib.sha256(CSV).hexdigest()
RAW = {"Content-Type": "application/octet-stream"}


def _tar(mode: Any = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        archive.addfile(tarfile.TarInfo("config.json"), io.BytesIO())
    return file.getvalue()


def _told(value: object) -> str | None:
    """An id of a test that is the same in every process: the bytes of archives hold the time."""
    return "bytes" if isinstance(value, bytes) else None


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{}")
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "filename", "content", "media_type"),
    [
        ("dataset", "data.csv", CSV, "text/csv"),
        ("dataset", "Data 1.CSV.GZ", gzip.compress(CSV), "application/gzip"),
        ("dataset", "d.jsonl", b'\xef\xbb\xbf{"text": "a"}\n', "application/jsonl"),
        ("dataset", "d.jsonl.gz", gzip.compress(b"{}"), "application/gzip"),
        ("dataset", "d.parquet", b"PAR1" + b"\0" * 20, "application/vnd.apache.parquet"),
        ("dataset", "d.zip", _zip(), "application/zip"),
        ("model", "m.tar", _tar(), "application/x-tar"),
        ("model", "m.tgz", _tar("w:gz"), "application/gzip"),
        ("model", "m.tar.gz", _tar("w:gz"), "application/gzip"),
        ("model", "m.zip", _zip(), "application/zip"),
    ],
    ids=_told,
)
def test_good_file_is_stored_under_its_digest(
    client: TestClient, store: Store, kind: str, filename: str, content: bytes, media_type: str
) -> None:
    params = {"kind": kind, "filename": filename}
    answer = client.post("/v1/uploads", params=params, content=content, headers=RAW)
    upload = answer.json()
    assert answer.status_code == 201, upload
    assert answer.headers["Location"] == f"/v1/uploads/{upload['id']}"
    assert upload["sha256"] == hashlib.sha256(content).hexdigest()
    assert (upload["kind"], upload["filename"], upload["size"]) == (kind, filename, len(content))
    assert upload["media_type"] == media_type
    assert upload["expires_at"] > upload["created_at"]
    assert b"".join(store.open_range(blob_key(upload["sha256"]))) == content
    assert client.get(answer.headers["Location"]).json() == upload


def test_form_gives_the_same_as_the_bytes(client: TestClient, store: Store) -> None:
    content = b"text,label\r\n--boundary\r\n" + b"hello,a\r\n" * 9000
    forms: list[dict[str, Any]] = [
        {"file": ("data.csv", content)},
        {"note": (None, "x"), "file": ("data.csv", content)},
    ]
    for files in forms:
        upload = client.post("/v1/uploads?kind=dataset", files=files).json()
        assert upload["filename"] == "data.csv"
        assert upload["sha256"] == hashlib.sha256(content).hexdigest()
        assert b"".join(store.open_range(blob_key(upload["sha256"]))) == content


def test_form_that_arrives_byte_by_byte(client: TestClient) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="d.csv"\r\n'
        b"Content-Type: text/csv\r\n\r\n" + CSV + b"\r\n--b--\r\n"
    )
    header = {"Content-Type": "multipart/form-data; boundary=b"}

    def pieces() -> Iterator[bytes]:
        for index in range(len(body)):
            yield body[index : index + 1]

    upload = client.post("/v1/uploads?kind=dataset", content=pieces(), headers=header).json()
    assert (upload["filename"], upload["sha256"]) == ("d.csv", CSV_SHA256)


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("multipart/form-data; boundary=b", b"--b\r\nno: end", 415, "unsupported_media_type"),
        ("multipart/form-data; boundary=b", b"x", 400, "malformed_body"),
        ("multipart/form-data", b"--b\r\n", 400, "malformed_body"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="d.csv"\r\n\r\na,b\r\n',
            400,
            "malformed_body",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\na,b\r\n--b--\r\n',
            415,
            "unsupported_media_type",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="../d.csv"\r\n\r\na\r\n--b--\r\n',
            422,
            "invalid_request",
        ),
        ("application/x-www-form-urlencoded", CSV, 415, "unsupported_media_type"),
    ],
)
def test_form_that_is_none(
    client: TestClient, settings: Settings, content_type: str, body: bytes, status: int, code: str
) -> None:
    answer = client.post("/v1/uploads?kind=dataset", content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    _assert_nothing_left(client, settings)


@pytest.mark.parametrize(
    ("kind", "filename", "content", "status", "said"),
    [
        ("model", "pytorch_model.bin", b"PK\x03\x04", 415, "pickle"),
        ("model", "model.pt", b"PK\x03\x04", 415, "pickle"),
        ("dataset", "rows.pkl.gz", b"\x1f\x8b\x08", 415, "pickle"),
        ("model", "model.safetensors", b"x" * 20, 415, "end in one of .zip, .tar"),
        ("dataset", "rows.xlsx", b"PK\x03\x04", 415, "end in one of .csv"),
        ("dataset", "csv", b"a", 415, "end in one of"),
        ("model", "data.csv", CSV, 415, "end in one of"),
        ("dataset", "rows.csv", pickle.dumps({"a": 1}), 422, "pickle"),
        ("dataset", "rows.csv", b"a,b\n\0\0", 422, "by its first bytes it is not"),
        ("dataset", "rows.jsonl", b"a,b\n", 422, "by its first bytes it is not"),
        ("dataset", "rows.parquet", CSV, 422, "by its first bytes it is not"),
        ("model", "m.zip", _tar(), 422, "by its first bytes it is not"),
        ("model", "m.tar", _zip(), 422, "by its first bytes it is not"),
        ("model", "m.tar.gz", _tar(), 422, "by its first bytes it is not"),
        ("dataset", "rows.csv", b"", 422, "empty"),
    ],
    ids=_told,
)
def test_file_that_is_not_taken(
    client: TestClient, settings: Settings, kind: str, filename: str, content: bytes, status: int, said: str
) -> None:
    params = {"kind": kind, "filename": filename}
    answer = client.post("/v1/uploads", params=params, content=content, headers=RAW)
    problem = answer.json()
    assert answer.status_code == status
    assert said in problem["detail"]
    assert "Send " in problem["remedy"]
    _assert_nothing_left(client, settings)


@pytest.mark.parametrize("filename", ["../x.csv", "a/b.csv", ".csv", "a\nb.csv", "x" * 300 + ".csv", None])
def test_name_that_is_no_plain_one(client: TestClient, filename: str | None) -> None:
    params = {"kind": "dataset", **({"filename": filename} if filename else {})}
    answer = client.post("/v1/uploads", params=params, content=CSV, headers=RAW)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "filename"


@pytest.mark.parametrize("announced", [True, False])
def test_file_that_is_too_large_leaves_nothing(
    client: TestClient, settings: Settings, announced: bool
) -> None:
    large = b"a,b\n" * (settings.upload_max_bytes // 4 + 20_000)
    content: Any = large if announced else (large[at : at + 9999] for at in range(0, len(large), 9999))
    params = {"kind": "dataset", "filename": "d.csv"}
    answer = client.post("/v1/uploads", params=params, content=content, headers=RAW)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    _assert_nothing_left(client, settings)


def test_file_of_the_largest_size_is_taken(client: TestClient, settings: Settings) -> None:
    content = b"a" * settings.upload_max_bytes
    params = {"kind": "dataset", "filename": "d.csv"}
    assert client.post("/v1/uploads", params=params, content=content, headers=RAW).status_code == 201
    over = client.post("/v1/uploads", params=params, content=content + b"a", headers=RAW)
    assert over.status_code == 413


@pytest.mark.parametrize(("digest", "status"), [(CSV_SHA256, 201), ("0" * 64, 422)])
def test_announced_digest_is_checked(
    client: TestClient, settings: Settings, digest: str, status: int
) -> None:
    url = "/v1/uploads?kind=dataset&filename=d.csv"
    encoded = base64.b64encode(bytes.fromhex(digest)).decode()
    by_query = client.post(f"{url}&sha256={digest}", content=CSV, headers=RAW)
    by_header = client.post(url, content=CSV, headers={**RAW, "Repr-Digest": f"sha-256=:{encoded}:"})
    assert by_query.status_code == by_header.status_code == status
    if status == 422:
        assert by_query.json()["code"] == "invalid_upload"
        _assert_nothing_left(client, settings)


def test_full_store_is_told(client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreFull("no room")

    monkeypatch.setattr(client.app.state.context.store, "put_file", full)  # type: ignore[attr-defined]
    answer = client.post("/v1/uploads?kind=dataset&filename=d.csv", content=CSV, headers=RAW)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert answer.headers["Retry-After"] == "60"
    assert answer.json()["retryable"] is True
    _assert_nothing_left(client, settings)


def test_same_bytes_are_stored_once(client: TestClient, settings: Settings) -> None:
    url = "/v1/uploads?kind=dataset&filename=d.csv"
    first, second = (client.post(url, content=CSV, headers=RAW).json() for _ in range(2))
    assert first["id"] != second["id"]
    assert first["sha256"] == second["sha256"]
    assert len(_stored(settings)) == 1


def test_list_by_kind_and_page(client: TestClient) -> None:
    ids = [
        client.post(f"/v1/uploads?kind=dataset&filename={n}.csv", content=CSV, headers=RAW).json()["id"]
        for n in range(3)
    ]
    client.post("/v1/uploads?kind=model&filename=m.zip", content=_zip(), headers=RAW)
    first = client.get("/v1/uploads", params={"kind": "dataset", "limit": 2}).json()
    params = {"kind": "dataset", "limit": 2, "cursor": first["next_cursor"]}
    rest = client.get("/v1/uploads", params=params).json()
    assert [upload["id"] for upload in first["data"] + rest["data"]] == ids[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)


def test_upload_is_removed_once_no_job_needs_it(client: TestClient, add_job: Callable[..., str]) -> None:
    url = "/v1/uploads?kind=dataset&filename=d.csv"
    upload_id = client.post(url, content=CSV, headers=RAW).json()["id"]
    job_id = add_job(dataset={"upload": upload_id})
    refused = client.delete(f"/v1/uploads/{upload_id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "upload_in_use")
    assert job_id in refused.json()["detail"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    removed = client.delete(f"/v1/uploads/{upload_id}")
    assert (removed.status_code, removed.content) == (204, b"")
    assert client.get(f"/v1/uploads/{upload_id}").status_code == 404
    assert client.delete(f"/v1/uploads/{upload_id}").status_code == 404


def test_job_names_an_upload_of_the_right_kind(client: TestClient, spec: dict[str, Any]) -> None:
    url = "/v1/uploads?kind=dataset&filename=d.csv"
    upload_id = client.post(url, content=CSV, headers=RAW).json()["id"]
    good = client.post("/v1/jobs", json={**spec, "dataset": {"upload": upload_id}})
    wrong = client.post("/v1/jobs", json={**spec, "base_model": {"upload": upload_id}})
    assert good.status_code == 202
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["pointer"] == "/base_model/upload"
    assert "not a model" in wrong.json()["errors"][0]["detail"]


def _assert_nothing_left(client: TestClient, settings: Settings) -> None:
    assert client.get("/v1/uploads").json()["data"] == []
    assert _stored(settings) == []
    spool = settings.data_dir / "spool"
    assert not spool.exists() or list(spool.iterdir()) == []


def _stored(settings: Settings) -> list[Path]:
    return [path for path in (settings.data_dir / "objects").rglob("*") if path.is_file()]
