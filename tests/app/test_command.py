"""`axforge serve` as a process of its own: light, orderly at its end, careful about who reaches it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from models.database import Database
from models.settings import Settings

ROOT = Path(__file__).parent.parent.parent
SERVE = "import typer; from app.command import serve; typer.run(serve)"
START_SECONDS = 30.0
MEBIBYTE = 2**20
AUTO = {"AXFORGE_API_AUTH": "auto"}


@dataclass(frozen=True)
class Server:
    """A serving process."""

    process: subprocess.Popen[str]
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = self.connect()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        return answer.status, content

    def most_memory(self) -> int:
        """Bytes that the process has held in memory at most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def _start(*options: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVE, *options],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def server(settings: Settings, database: Database) -> Iterator[Server]:
    limit = {"AXFORGE_UPLOAD_MAX_BYTES": str(300 * MEBIBYTE)}
    process = _start("--port", "0", "--data-dir", str(settings.data_dir), environment=limit)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "http://127.0.0.1:" in said, said + process.stderr.read()
    try:
        yield Server(process, int(json.loads(said)["url"].rpartition(":")[2]))
    finally:
        process.kill()
        process.communicate()


def test_serving_and_large_transfers_stay_below_200_mib(
    server: Server, settings: Settings, start_run: Callable[..., Any]
) -> None:
    spec = json.dumps({"base_model": {"hub": "a/b"}, "dataset": {"hub": "c/d"}})
    for _ in range(50):
        status, _ = server.request("POST", "/v1/jobs", spec, **{"Content-Type": "application/json"})
        assert status == 202
    for path in ("/v1/jobs?limit=100", "/v1/capabilities", "/openapi.json", "/readyz"):
        assert server.request("GET", path)[0] == 200
    piece = b"text,label\n" * 100_000
    status, upload = server.request(
        "POST", "/v1/uploads?kind=dataset&filename=d.csv", (piece for _ in range(200))
    )
    assert (status, upload["size"]) == (201, 200 * len(piece))
    run = start_run()
    run.succeed(**{"model.onnx": piece * 100})
    connection = server.connect()
    connection.request("GET", f"/v1/jobs/{run.job_id}/artifacts/model.onnx")
    answer = connection.getresponse()
    received = sum(len(part) for part in iter(lambda: answer.read(MEBIBYTE), b""))
    connection.close()
    assert received == 100 * len(piece)
    assert server.most_memory() < 200 * MEBIBYTE


def test_upload_that_breaks_off_leaves_nothing(server: Server, settings: Settings) -> None:
    spool = settings.data_dir / "spool"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            b"POST /v1/uploads?kind=dataset&filename=d.csv HTTP/1.1\r\nHost: x\r\n"
            b"Content-Length: 9000000\r\n\r\n" + b"a,b\n" * 100_000
        )
        _wait_for(lambda: spool.is_dir() and any(spool.iterdir()))
    _wait_for(lambda: not any(spool.iterdir()))
    assert server.request("GET", "/v1/uploads")[1]["data"] == []
    assert not [path for path in (settings.data_dir / "objects").rglob("*") if path.is_file()]


def test_end_lets_go_of_those_who_wait(server: Server, start_run: Callable[..., Any]) -> None:
    job_id = start_run().job_id
    stream, poll = server.connect(), server.connect()
    stream.request("GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
    events = stream.getresponse()
    assert events.readline() == b"event: event\n"
    poll.request("GET", f"/v1/jobs/{job_id}", headers={"Prefer": "wait=60"})
    server.request("GET", "/healthz")
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    events.read()
    assert json.loads(poll.getresponse().read())["status"] == "running"
    assert server.process.wait(timeout=20) == 0
    assert time.monotonic() - began < 8


def test_port_in_use_is_told(server: Server, tmp_path: Path) -> None:
    second = _start("--port", str(server.port), "--data-dir", str(tmp_path / "other"))
    _, said = second.communicate(timeout=60)
    assert second.returncode == 2
    assert said.startswith(f"Cannot listen on 127.0.0.1 port {server.port}: ")
    assert "Traceback" not in said


@pytest.mark.parametrize("options", [("--embedded",), ()])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_without_keys_no_server_is_reached_by_others(
    host: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    process = _start(*options, "--host", host, "--data-dir", str(tmp_path / "data"), environment=AUTO)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--insecure" in said
    assert "axforge keys create" in said
    assert not (tmp_path / "data").exists()


def test_database_that_does_not_answer_counts_as_one_without_keys() -> None:
    url = "postgresql://axforge:planted-password@127.0.0.1:1/axforge"
    process = _start("--host", "0.0.0.0", environment=AUTO | {"AXFORGE_DATABASE_URL": url})
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--insecure" in said
    assert "planted-password" not in said


@pytest.mark.parametrize(
    ("options", "auth", "with_key", "status"),
    [
        (("--insecure",), "auto", False, 200),
        (("--insecure",), "auto", True, 401),
        ((), "auto", True, 401),
        (("--insecure",), "required", False, 401),
    ],
)
def test_server_that_others_reach(
    options: tuple[str, ...],
    auth: str,
    with_key: bool,
    status: int,
    settings: Settings,
    make_key: Callable[..., Any],
) -> None:
    if with_key:
        make_key()
    where = ("--host", "0.0.0.0", "--port", "0", "--data-dir", str(settings.data_dir))
    process = _start(*where, *options, environment={"AXFORGE_API_AUTH": auth})
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "http://0.0.0.0:" in said, said + process.stderr.read()
    try:
        server = Server(process, int(json.loads(said)["url"].rpartition(":")[2]))
        assert server.request("GET", "/v1/jobs", Host="example.org")[0] == status
    finally:
        process.kill()
        process.communicate()


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
