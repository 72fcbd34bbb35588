from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from models.store import BlobNotFound, BlobTooLarge, Store, StoreError, open_store

CONTENT = os.urandom(9 * 1024 * 1024 + 17)  # more than one part of a multipart upload


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="axforge")
        yield "s3://axforge/some/prefix"
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield open_store("memory://", spool=tmp_path)
    elif request.param == "file":
        yield open_store((tmp_path / "a folder").as_uri(), spool=tmp_path / "spool")
    else:
        store = open_store(request.getfixturevalue("s3"), spool=tmp_path)
        yield store
        for key in list(store.list("")):
            store.delete(key)


def pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 100_000):
        yield content[start : start + 100_000]


def test_a_file_comes_back_whole_and_in_ranges(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(CONTENT)
    blob = store.put_file(tmp_path / "in")
    assert store.put_stream(pieces(CONTENT)) == blob
    assert blob.key == f"sha256/{blob.sha256}"
    assert store.size(blob.key) == blob.size == len(CONTENT)
    assert b"".join(store.open_range(blob.key)) == CONTENT
    assert b"".join(store.open_range(blob.key, 5, 2_000_000)) == CONTENT[5:2_000_000]
    assert b"".join(store.open_range(blob.key, len(CONTENT) - 3)) == CONTENT[-3:]
    assert b"".join(store.open_range(blob.key, 7, 10**12)) == CONTENT[7:]
    store.download(blob.key, tmp_path / "new" / "out")
    assert (tmp_path / "new" / "out").read_bytes() == CONTENT
    assert list(store.list("sha256")) == [blob.key]


def test_folders_keep_apart_and_delete_is_repeatable(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"abc")
    kept = store.put_file(tmp_path / "in")
    other = store.put_file(tmp_path / "in", folder="checkpoint/job_1")
    store.delete(other.key)
    store.delete(other.key)
    assert not store.exists(other.key)
    assert store.exists(kept.key)
    assert list(store.list("checkpoint/job_1")) == []


def test_empty_content(store: Store) -> None:
    blob = store.put_stream([])
    assert store.exists(blob.key)
    assert list(store.open_range(blob.key)) == []


def test_what_is_not_there(store: Store, tmp_path: Path) -> None:
    assert not store.exists("sha256/none")
    for action in (
        lambda: store.size("sha256/none"),
        lambda: store.open_range("sha256/none"),
        lambda: store.download("sha256/none", tmp_path / "out"),
    ):
        with pytest.raises(BlobNotFound):
            action()
    assert not (tmp_path / "out").exists()


def test_a_stream_too_long_or_broken_leaves_nothing(store: Store, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield CONTENT
        raise ConnectionResetError

    with pytest.raises(BlobTooLarge):
        store.put_stream(pieces(CONTENT), max_bytes=len(CONTENT) - 1)
    with pytest.raises(ConnectionResetError):
        store.put_stream(broken())
    assert list(store.list("")) == []
    assert list(tmp_path.rglob("incoming-*")) == []


def test_writers_of_the_same_content_do_not_disturb_each_other(store: Store) -> None:
    threads = [Thread(target=lambda: store.put_stream(pieces(CONTENT))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    [key] = store.list("sha256")
    assert b"".join(store.open_range(key)) == CONTENT


def test_a_file_that_changes_meanwhile_is_not_stored(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in"
    path.write_bytes(CONTENT)
    holds = type(store)._holds  # type: ignore[attr-defined]

    def change_then_look(self: Store, blob: object) -> bool:
        path.write_bytes(CONTENT[::-1])
        return bool(holds(self, blob))

    monkeypatch.setattr(type(store), "_holds", change_then_look)
    with pytest.raises(StoreError, match="changed"):
        store.put_file(path)
    assert list(store.list("")) == []


def test_only_a_store_that_signs_gives_out_addresses(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(CONTENT)
    blob = store.put_file(tmp_path / "in")
    address = store.presigned(blob.key, 60)
    if address is not None:
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == CONTENT
        assert "X-Amz-Expires=60" in address
    assert (address is None) == (type(store._backend).__name__ != "S3Store")  # type: ignore[attr-defined]


def test_addresses_name_the_store_as_clients_reach_it(s3: str, tmp_path: Path) -> None:
    store = open_store(s3, spool=tmp_path, public_endpoint="http://files.example:9000")
    blob = store.put_stream([b"abc"])  # through the endpoint of the environment
    address = store.presigned(blob.key, 60)
    assert address is not None
    assert address.startswith(f"http://files.example:9000/axforge/some/prefix/{blob.key}?X-Amz-")
    store.delete(blob.key)
