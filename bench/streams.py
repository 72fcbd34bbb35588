"""1,000 event streams and 200 long-polls on one API process, while jobs go on and others read."""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import select

from bench.load import Load, answer, request
from bench.servers import Server, fresh_database, service
from bench.throughput import SPEC
from models import journal, lifecycle
from models.database import Database
from models.spec import JobSpec
from models.tables import Event

JOBS = 100
STREAMS = 1000
POLLS = 200
EVENTS = 5
EVENT_SECONDS = 4.0
"""Between two events of one job; the jobs take turns, so that there are 25 events a second."""
READ_PAUSE_SECONDS = 0.02
PATIENCE_SECONDS = 120.0


def measure(backend: str) -> dict[str, Any]:
    """Events missed, memory of the process, and how long a GET took meanwhile."""
    _allow_many_files()
    with tempfile.TemporaryDirectory(prefix="axforge-bench-") as name:
        folder = Path(name)
        with fresh_database(backend, folder) as url, service(url, folder) as server:
            idle = server.rss_mib
            jobs = _running_jobs(url)
            return {"idle_rss_mib": round(idle, 1), **asyncio.run(_observe(server, url, jobs))}


async def _observe(server: Server, url: str, jobs: list[str]) -> dict[str, Any]:
    ready = asyncio.Semaphore(0)
    followers = [asyncio.create_task(_follow(server.port, jobs[n % JOBS], ready)) for n in range(STREAMS)]
    polls = [asyncio.create_task(_poll(server.port, jobs[n % JOBS], ready)) for n in range(POLLS)]
    for _ in range(STREAMS + POLLS):
        await ready.acquire()
    writer = multiprocessing.get_context("spawn").Process(target=_work, args=(url, jobs))
    writer.start()
    readers = [asyncio.create_task(_read(server.port, jobs[n], writer)) for n in range(2)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        seen = await asyncio.gather(*followers)
        told = await asyncio.gather(*polls)
        loads = await asyncio.gather(*readers)
    writer.join()
    gets = Load(0.0, latencies=[each for load in loads for each in load.latencies])
    expected = _events(url, jobs)
    lost = sum(len(set(expected[jobs[n % JOBS]]) - set(ids)) for n, ids in enumerate(seen))
    wrong = sum(ids != expected[jobs[n % JOBS]] for n, ids in enumerate(seen))
    return {
        "streams": STREAMS,
        "long_polls": POLLS,
        "long_polls_that_saw_the_end": sum(told),
        "jobs": JOBS,
        "events_a_second": JOBS / EVENT_SECONDS,
        "events_delivered": sum(map(len, seen)),
        "events_missed": lost,
        "streams_out_of_order": wrong,
        "peak_rss_mib": round(server.peak_rss_mib, 1),
        "parallel_gets": len(gets.latencies),
        "get_p50_ms": round(gets.percentile(0.5) * 1000, 1),
        "get_p99_ms": round(gets.percentile(0.99) * 1000, 1),
    }


async def _follow(port: int, job: str, ready: asyncio.Semaphore) -> list[int]:
    """The ids of all events that a stream brings until its `end`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("GET", f"/v1/jobs/{job}/events", Accept="text/event-stream"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    ids: list[int] = []
    line = b""
    while line != b"event: end\n":
        line = await reader.readuntil(b"\n")
        if line.startswith(b"id: "):
            if not ids:
                ready.release()
            ids.append(int(line[4:]))
    writer.close()
    return ids


async def _poll(port: int, job: str, ready: asyncio.Semaphore) -> bool:
    """Look once, then long-poll for every change until the job is done."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    conditions: dict[str, str] = {}
    while True:
        writer.write(request("GET", f"/v1/jobs/{job}", body=b"", **conditions))
        found = await answer(reader)
        if found.status == 200 and b'"done":true' in found.body:
            writer.close()
            return True
        if not conditions:
            ready.release()
        conditions = {"If_None_Match": found.headers["etag"], "Prefer": "wait=30"}


async def _read(port: int, job: str, writer: multiprocessing.process.BaseProcess) -> Load:
    load = Load(0.0)
    reader, sending = await asyncio.open_connection("127.0.0.1", port)
    while writer.is_alive():
        began = time.perf_counter()
        sending.write(request("GET", f"/v1/jobs/{job}"))
        await answer(reader)
        load.latencies.append(time.perf_counter() - began)
        await asyncio.sleep(READ_PAUSE_SECONDS)
    sending.close()
    return load


def _running_jobs(url: str) -> list[str]:
    database = Database(url)
    spec = JobSpec.model_validate(SPEC)
    with database.transaction() as session:
        jobs = [lifecycle.create(session, spec).id for _ in range(JOBS)]
        for job in jobs:
            lifecycle.claim_one(session, job, "bench", 3600.0)
    database.close()
    return jobs


def _work(url: str, jobs: list[str]) -> None:
    """Write as runs do: each job tells something now and then, and ends."""
    database = Database(url)
    began = time.monotonic()
    for step in range(EVENTS * JOBS):
        time.sleep(max(0.0, began + step * EVENT_SECONDS / JOBS - time.monotonic()))
        with database.transaction() as session:
            journal.add_event(session, jobs[step % JOBS], 1, type="note", message=f"step {step}")
    for job in jobs:
        with database.transaction() as session:
            lifecycle.succeed(session, job, 1, result={}, artifacts=[], progress={})
    database.close()


def _events(url: str, jobs: list[str]) -> dict[str, list[int]]:
    database = Database(url)
    found: dict[str, list[int]] = {job: [] for job in jobs}
    with database.session() as session:
        for row in session.execute(select(Event.job_id, Event.id).order_by(Event.id)):
            found[row.job_id].append(row.id)
    database.close()
    return found


def _allow_many_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
