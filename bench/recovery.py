"""How soon a queued job runs, and how soon the job of a killed worker runs again.

The processes are those of a cluster (Celery worker, dispatcher, reaper, the service); only the
engine is the tests' stand-in, which runs until it is told to stop.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.servers import ROOT, Server, fresh_database, service
from bench.throughput import SPEC, post
from models.database import Database
from models.job import Job, JobStatus
from worker.embedded import bundled_redis

STARTS = 10
KILLS = 3
LEASE_SECONDS = 10.0
REAP_SECONDS = 5.0
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.01
WORKER_RESTS_SECONDS = 2.0
"""Until the worker has seen the end of its run and is free."""


def measure(backend: str) -> dict[str, Any]:
    """Seconds from POST to running, and from SIGKILL of a worker to running again."""
    with tempfile.TemporaryDirectory(prefix="axforge-bench-") as name, ExitStack() as parts:
        folder = Path(name)
        broker = parts.enter_context(bundled_redis(folder))
        assert broker is not None, "the bundled Redis did not start"
        url = parts.enter_context(fresh_database(backend, folder))
        settings = {
            "AXFORGE_DATABASE_URL": url,
            "AXFORGE_DATA_DIR": str(folder),
            "AXFORGE_BROKER_URL": broker,
            "AXFORGE_LEASE_SECONDS": str(LEASE_SECONDS),
            "AXFORGE_HEARTBEAT_SECONDS": "1",
            "AXFORGE_REAP_SECONDS": str(REAP_SECONDS),
        }
        server = parts.enter_context(service(url, folder, **settings))
        for module in ("worker.dispatcher", "worker.reaper"):
            parts.enter_context(process_of([sys.executable, "-m", module], settings, folder))
        database = Database(url)
        parts.callback(database.close)
        clock = _Clock(server, database)
        return {
            "queued_to_running_seconds": _starts(clock, settings, folder),
            "killed_to_running_again_seconds": _kills(clock, settings, folder),
            "lease_seconds": LEASE_SECONDS,
        }


def _starts(clock: _Clock, settings: dict[str, str], folder: Path) -> dict[str, Any]:
    """Each job is sent to a worker that is free, and cancelled once it runs."""
    with _worker(settings, folder):
        _cancelled(clock, clock.create())  # the worker is up and has run a job before the clock starts
        taken = []
        for _ in range(STARTS):
            began = time.monotonic()
            job = clock.create()
            clock.until(job, lambda row: row.status is JobStatus.RUNNING)
            taken.append(time.monotonic() - began)
            _cancelled(clock, job)
    return _spread(taken)


def _kills(clock: _Clock, settings: dict[str, str], folder: Path) -> dict[str, Any]:
    """The worker that runs the job is killed with its pool; another one starts in time."""
    taken = []
    for _ in range(KILLS):
        with _worker(settings, folder) as victim:
            job = clock.create()
            clock.until(job, lambda row: row.status is JobStatus.RUNNING)
            with _worker(settings, folder):
                began = time.monotonic()
                os.killpg(victim.pid, signal.SIGKILL)
                clock.until(job, lambda row: row.status is JobStatus.RUNNING and row.attempt == 2)
                taken.append(time.monotonic() - began)
                _cancelled(clock, job)
    return _spread(taken)


class _Clock:
    """Makes jobs as a client does, and sees in the database what became of them."""

    def __init__(self, server: Server, database: Database) -> None:
        self._server = server
        self._database = database

    def create(self) -> str:
        """POST a job; gives its id."""
        return str(post(self._server.port, "/v1/jobs", json.dumps(SPEC).encode())["id"])

    def cancel(self, job_id: str) -> None:
        """Ask for the job's end."""
        post(self._server.port, f"/v1/jobs/{job_id}/cancel", b"")

    def until(self, job_id: str, satisfied: Callable[[Job], bool]) -> None:
        """Look until the job's row satisfies."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with self._database.session() as session:
                if satisfied(session.get_one(Job, job_id)):
                    return
            time.sleep(LOOK_SECONDS)
        raise SystemExit(f"the job {job_id} did not get there in {PATIENCE_SECONDS:g} seconds")


def _cancelled(clock: _Clock, job_id: str) -> None:
    clock.cancel(job_id)
    clock.until(job_id, lambda row: row.done)
    time.sleep(WORKER_RESTS_SECONDS)


def _spread(seconds: list[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(seconds), 3),
        "worst": round(max(seconds), 3),
        "each": [round(each, 3) for each in seconds],
    }


@contextmanager
def _worker(settings: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        *(sys.executable, "-m", "celery", "--app", "tests.worker.celery_with_fake_runner", "worker"),
        *("--pool", "prefork", "--concurrency", "1", "--hostname", f"{secrets.token_hex(4)}@%h"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"),
    ]
    with process_of(command, settings, folder) as process:
        yield process


@contextmanager
def process_of(
    command: list[str], settings: dict[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with these settings in its environment, ended at the end; it writes to processes.log."""
    with (folder / "processes.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **settings}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
