"""A file of 2 GiB, down and up, against the memory of the API process."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.servers import Server, free_port, fresh_database, service, until_it_answers
from bench.throughput import SPEC
from models import lifecycle
from models.database import Database
from models.lifecycle import Delivery
from models.spec import JobSpec
from models.store import open_store

SIZE = 2 * 1024**3
BLOCK = secrets.token_bytes(1024**2)
STORES = ("folder", "s3")


def measure(store: str) -> dict[str, Any]:
    """Peak memory and rate of a download, a resumed one and an upload; every byte is compared."""
    with tempfile.TemporaryDirectory(prefix="axforge-bench-") as name:
        folder = Path(name)
        with (
            _environment(store, folder) as variables,
            fresh_database("sqlite", folder) as url,
            service(url, folder, **variables) as server,
        ):
            job, digest = _delivered(url, variables["AXFORGE_STORE_URL"])
            path = f"/v1/jobs/{job}/artifacts/model.bin"
            return {
                "bytes": SIZE,
                "idle_rss_mib": round(server.rss_mib, 1),
                "download": _timed(server, lambda: _download(server, path, digest)),
                "resume": _timed(server, lambda: _resume(server, path)),
                "upload": _timed(server, lambda: _upload(server)),
            }


def _download(server: Server, path: str, digest: str) -> int:
    answer = _get(server, path)
    assert answer.status == 200, answer.status
    received = hashlib.sha256()
    while piece := answer.read(len(BLOCK)):
        received.update(piece)
    assert received.hexdigest() == digest, "the download is not the file"
    return SIZE


def _resume(server: Server, path: str) -> int:
    """Break off in the middle, go on from there with Range and If-Range."""
    first = _get(server, path)
    etag = first.headers["ETag"]
    had = SIZE // 2 + 12_345
    for _ in range(3):
        first.read(len(BLOCK))
    first.close()
    rest = _get(server, path, {"Range": f"bytes={had}-", "If-Range": etag})
    assert rest.status == 206, rest.status
    assert rest.headers["Content-Range"] == f"bytes {had}-{SIZE - 1}/{SIZE}"
    position = had
    while piece := rest.read(len(BLOCK)):
        start = position % len(BLOCK)
        assert piece == (BLOCK + BLOCK)[start : start + len(piece)], "the rest is not the file's"
        position += len(piece)
    assert position == SIZE
    return SIZE - had


def _upload(server: Server) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    head = b"text,label\n"
    lines = hashlib.sha256(head)
    block = b"some text that is long enough to be a row of its own,label\n" * 16_384
    count = SIZE // len(block)
    for _ in range(count):
        lines.update(block)
    size = len(head) + count * len(block)
    connection.putrequest("POST", "/v1/uploads?kind=dataset&filename=data.csv")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    connection.send(head)
    for _ in range(count):
        connection.send(block)
    answer = connection.getresponse()
    stored = answer.read().decode()
    assert answer.status == 201, stored
    assert lines.hexdigest() in stored, "what was stored is not what was sent"
    return size


def _get(server: Server, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", path, headers=headers or {})
    return connection.getresponse()


def _timed(server: Server, transfer: Callable[[], int]) -> dict[str, float]:
    server.forget_peak()
    began = time.perf_counter()
    moved = transfer()
    seconds = time.perf_counter() - began
    return {
        "peak_rss_mib": round(server.peak_rss_mib, 1),
        "mib_per_second": round(moved / 2**20 / seconds, 1),
    }


def _delivered(database_url: str, store_url: str) -> tuple[str, str]:
    """A job that has delivered a large file; gives its id and the file's digest."""
    blob = open_store(store_url).put_stream(itertools.repeat(BLOCK, SIZE // len(BLOCK)))
    delivery = Delivery("model.bin", blob.size, blob.sha256, "application/octet-stream")
    database = Database(database_url)
    with database.transaction() as session:
        job = lifecycle.create(session, JobSpec.model_validate(SPEC)).id
        lifecycle.claim_one(session, job, "bench", 3600.0)
        lifecycle.succeed(session, job, 1, result={}, artifacts=[delivery], progress={})
    database.close()
    return job, blob.sha256


@contextmanager
def _environment(store: str, folder: Path) -> Iterator[dict[str, str]]:
    """The variables that name the store: a folder, or a bucket of moto in a process of its own."""
    if store == "folder":
        yield {"AXFORGE_STORE_URL": (folder / "objects").as_uri()}
        return
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "AXFORGE_STORE_URL": "s3://bench/objects",
    }
    os.environ.update(variables)  # this process puts the file there
    try:
        until_it_answers(server, port)
        bucket = urllib.request.Request(f"http://127.0.0.1:{port}/bench", method="PUT")
        urllib.request.urlopen(bucket).close()
        yield variables
    finally:
        server.terminate()
        server.wait(timeout=30)
