"""The whole service as processes, each with a log of its own, a broker, and a collector of spans."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from migrations import upgrade
from models.settings import Settings
from tests.worker.jobs import wait_until

ROOT = Path(__file__).parent.parent.parent
SERVE = "import typer; from app.command import serve; typer.run(serve)"
SPEC = {"base_model": {"hub": "a/b"}, "dataset": {"hub": "c/d"}}
SECRETS = {
    "HF_TOKEN": "hf-token-that-nobody-sees",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-that-nobody-sees",
}
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_SPAN_ID = "00f067aa0ba902b7"
REQUEST_ID = "request-of-the-test"


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def take(self, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.services[span.span_id.hex()] = attributes["service.name"]
                    self.spans.append(span)


@dataclass(frozen=True)
class Seen:
    """What one real run of the service showed to the outside."""

    job: dict[str, Any]
    metrics: str
    memory: dict[str, int]
    logs: dict[str, str]
    collector: Collector

    def lines(self, process: str) -> list[dict[str, Any]]:
        """Every line of a process's log, parsed. Fails where one is no JSON object."""
        parsed = [json.loads(line) for line in self.logs[process].splitlines()]
        assert all(isinstance(line, dict) for line in parsed)
        return parsed


@pytest.fixture(scope="package")
def seen(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("service")
    collector = Collector()
    environment = (
        os.environ
        | SECRETS
        | {
            "AXFORGE_DATA_DIR": str(folder / "data"),
            "AXFORGE_BROKER_URL": redis_url,
            "AXFORGE_LOG_LEVEL": "debug",
            "AXFORGE_DISPATCH_SECONDS": "0.2",
            "AXFORGE_REAP_SECONDS": "0.2",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "FAKE_RUNNER": "talk",
            "PYTHONWARNINGS": "always",
        }
    )
    upgrade(Settings(data_dir=folder / "data").database)
    python = [sys.executable]
    celery = ["-m", "celery", "--app", "tests.worker.celery_with_fake_runner", "worker"]
    commands = {
        "api": [*python, "-c", SERVE, "--port", "0"],
        "worker": [*python, *celery, "--concurrency", "1", "--loglevel", "DEBUG"],
        "dispatcher": [*python, "-m", "worker.dispatcher"],
        "reaper": [*python, "-m", "worker.reaper"],
    }
    processes = {}
    for name, command in commands.items():
        with (folder / name).open("w") as log:
            processes[name] = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def log_of(name: str) -> str:
        return (folder / name).read_text()

    try:
        wait_until(lambda: "127.0.0.1:" in log_of("api"), 60)
        found = re.search(r"http://127\.0\.0\.1:\d+", log_of("api"))
        assert found is not None
        job, metrics = _use(found.group())
        wait_until(lambda: '"run_ended"' in log_of("worker"))
        memory = {name: most_memory(process.pid) for name, process in processes.items()}
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        codes = {name: process.wait(60) for name, process in processes.items()}
        assert codes == dict.fromkeys(commands, 0)
        yield Seen(job, metrics, memory, {name: log_of(name) for name in commands}, collector)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
        collector.server.shutdown()
        collector.server.server_close()


def most_memory(pid: int) -> int:
    """Bytes that a process has held in memory at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def _use(url: str) -> tuple[dict[str, Any], str]:
    """Create a job and wait for its end. Returns it, and the metrics then."""
    headers = {
        "Content-Type": "application/json",
        "X-Request-ID": REQUEST_ID,
        "traceparent": f"00-{TRACE_ID}-{PARENT_SPAN_ID}-01",
    }
    wait_until(lambda: _get(f"{url}/readyz"), 60)
    created = json.loads(_send(Request(f"{url}/v1/jobs", json.dumps(SPEC).encode(), headers)))
    path = f"{url}/v1/jobs/{created['id']}"
    wait_until(lambda: json.loads(_get(path))["done"], 120)
    return json.loads(_get(path)), _get(f"{url}/metrics")


def _get(url: str) -> str:
    return _send(Request(url))


def _send(request: Request) -> str:
    with urlopen(request, timeout=30) as answer:
        text: str = answer.read().decode()
        return text
