"""Requests a second of the service beside a bare FastAPI and SQLAlchemy route, in turns."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from app.caller import Caller
from app.keys import service as keys
from app.keys.schemas import NewApiKey
from bench.load import press, request
from bench.servers import bare, fresh_database, service
from models import journal, lifecycle
from models.api_key import Scope
from models.database import Database
from models.job import DEFAULT_TENANT, Job
from models.lifecycle import Delivery
from models.spec import JobSpec
from worker.embedded import bundled_redis

ROUNDS = 7
SECONDS = 0.6
CONNECTIONS = 16
SPEC: dict[str, Any] = {
    "name": "sst2-minilm",
    "base_model": {"hub": "sentence-transformers/all-MiniLM-L6-v2"},
    "dataset": {"hub": "nyu-mll/glue", "config": "sst2"},
    "constraints": {"accuracy": {"max_relative_drop": 0.01}, "speed": {"min_speedup": 2.0}},
}
PROGRESS = {"stage": "search", "step": 3, "total": 40, "fraction": 0.4, "eta_seconds": 60.0, "message": ""}
JSON = {"Content_Type": "application/json"}
PHASES = (
    ("bare_create", "create_job", "create_job_with_key"),
    ("bare_read", "read_running_job", "read_finished_job", "not_modified"),
    ("bare_beside_keys", "read_with_api_key", "create_with_api_key"),
)
"""What takes turns. Reads come after creation: hints of created jobs are sent for two seconds more. Requests
with an API key come last, since from the first key on everybody needs one."""
WITH_KEYS = PHASES[-1]
RATIOS = {
    "create": ("create_job", "bare_create"),
    "create_with_key": ("create_job_with_key", "bare_create"),
    "read_running": ("read_running_job", "bare_read"),
    "read_finished": ("read_finished_job", "bare_read"),
    "not_modified": ("not_modified", "read_running_job"),
    "read_with_api_key": ("read_with_api_key", "bare_beside_keys"),
}
"""Name: what is divided by what."""
Contender = tuple[int, int, Callable[[], bytes]]
"""Port, the status that is expected, what makes the next request."""


def measure(backend: str) -> dict[str, Any]:
    """Medians over the rounds, and the ratios, each the median of the rounds' own."""
    with tempfile.TemporaryDirectory(prefix="axforge-bench-") as name:
        folder = Path(name)
        with (
            bundled_redis(folder) as broker,
            fresh_database(backend, folder) as url,
            service(url, folder, AXFORGE_BROKER_URL=str(broker)) as ours,
            bare(url, folder) as theirs,
        ):
            return _compared(asyncio.run(_rounds(url, ours.port, theirs.port)))


def post(port: int, path: str, body: bytes) -> Any:
    """The JSON that a server on loopback answers."""
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    return json.loads(connection.getresponse().read())


def _compared(rounds: dict[str, list[float]]) -> dict[str, Any]:
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(rounds[ours], rounds[base], strict=True)), 3)
        for name, (ours, base) in RATIOS.items()
    }
    rates = {name: round(statistics.median(values), 1) for name, values in rounds.items()}
    return {"requests_per_second": rates, "ratios": ratios}


async def _rounds(url: str, ours: int, theirs: int) -> dict[str, list[float]]:
    jobs = _Jobs.stored(url)
    body = json.dumps(SPEC).encode()
    whole = json.dumps({"name": SPEC["name"], "spec": jobs.spec}).encode()
    item = post(theirs, "/items", whole)["id"]
    numbers = itertools.count()
    contenders: dict[str, Contender] = {
        "bare_create": (theirs, 201, _same(request("POST", "/items", body=whole, **JSON))),
        "create_job": (ours, 202, _same(request("POST", "/v1/jobs", body=body, **JSON))),
        "create_job_with_key": (
            ours,
            202,
            lambda: request("POST", "/v1/jobs", body=body, **JSON, Idempotency_Key=f"key-{next(numbers)}"),
        ),
        "bare_read": (theirs, 200, _same(request("GET", f"/items/{item}"))),
        "read_running_job": (ours, 200, _same(request("GET", f"/v1/jobs/{jobs.running}"))),
        "read_finished_job": (ours, 200, _same(request("GET", f"/v1/jobs/{jobs.finished}"))),
        "not_modified": (
            ours,
            304,
            _same(request("GET", f"/v1/jobs/{jobs.running}", If_None_Match=f'"{jobs.version}"')),
        ),
    }
    rates: dict[str, list[float]] = {}
    for phase in PHASES:
        if phase is WITH_KEYS:
            contenders |= _with_api_key(_api_key(url), contenders, body, jobs.running)
        for name in phase * ROUNDS:
            port, status, message = contenders[name]
            load = await press(port, message, connections=CONNECTIONS, seconds=SECONDS)
            if set(load.statuses) != {status}:
                raise SystemExit(f"{name} was answered with {load.statuses}")
            rates.setdefault(name, []).append(load.rate)
    return rates


def _with_api_key(secret: str, others: dict[str, Contender], body: bytes, job: str) -> dict[str, Contender]:
    ours, bearer = others["create_job"][0], f"Bearer {secret}"
    read = request("GET", f"/v1/jobs/{job}", Authorization=bearer)
    create = request("POST", "/v1/jobs", body=body, **JSON, Authorization=bearer)
    return {
        "bare_beside_keys": others["bare_read"],
        "read_with_api_key": (ours, 200, _same(read)),
        "create_with_api_key": (ours, 202, _same(create)),
    }


def _api_key(url: str) -> str:
    """The secret of a key that is good for everything, as the operator makes one."""
    database = Database(url)
    wanted = NewApiKey(name="bench", scopes=list(Scope))
    with database.transaction() as session:
        made = keys.create(session, Caller(DEFAULT_TENANT, None, frozenset(Scope)), wanted)
    database.close()
    assert made.secret is not None
    return made.secret


@dataclass(frozen=True)
class _Jobs:
    """Jobs to read: one that runs, with progress, and one that has delivered files."""

    running: str
    version: int
    finished: str
    spec: dict[str, Any]

    @classmethod
    def stored(cls, url: str) -> _Jobs:
        database = Database(url)
        spec = JobSpec.model_validate(SPEC)
        with database.transaction() as session:
            running, finished = (lifecycle.create(session, spec) for _ in range(2))
            for job in (running, finished):
                lifecycle.claim_one(session, job.id, "bench", 3600.0)
            journal.write_progress(session, running.id, 1, PROGRESS)
            files = [Delivery(f"onnx/{n}", 10, f"{n:064x}", "application/octet-stream") for n in range(6)]
            lifecycle.succeed(
                session, finished.id, 1, result={"constraints_met": True}, artifacts=files, progress=PROGRESS
            )
            version = session.get_one(Job, running.id).version
        database.close()
        return cls(running.id, version, finished.id, running.spec)


def _same(message: bytes) -> Callable[[], bytes]:
    return lambda: message
