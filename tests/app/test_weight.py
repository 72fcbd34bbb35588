"""What requests cost, counted rather than timed."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio.to_thread
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app import threads
from app.auth import caller_of
from app.command import _listening
from app.context import context_of, tenant_of
from app.events import service as events
from app.events.sharing import SharedReads
from app.idempotency.service import keyed
from app.jobs.watch import JobState, JobWatcher
from app.parameters import parameters_are_known
from tests.app.conftest import bearer

STREAM = {"Accept": "text/event-stream"}
JOBS = 5
STREAMS = 50
EVENTS = 30


@pytest.fixture
def statements(client: TestClient) -> Iterator[list[str]]:
    """The statements that the served application has executed."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        # Whether a key is needed is asked once a second, whatever is served.
        if not statement.startswith("BEGIN") and "FROM api_key" not in statement:
            seen.append(statement)

    engine = client.app.state.context.database.engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def test_a_job_that_runs_is_read_by_one_statement(
    client: TestClient, start_run: Callable[..., Any], statements: list[str]
) -> None:
    run = start_run()
    answer = client.get(f"/v1/jobs/{run.job_id}")
    assert len(statements) == 1
    statements.clear()
    known = {"If-None-Match": answer.headers["ETag"]}
    assert client.get(f"/v1/jobs/{run.job_id}", headers=known).status_code == 304
    assert len(statements) == 1
    assert "spec" not in statements[0]


def test_a_finished_job_is_read_with_its_files_by_two_statements(
    client: TestClient, start_run: Callable[..., Any], statements: list[str]
) -> None:
    run = start_run()
    run.succeed({}, **{"model.onnx": b"weights", "certificate.json": b"{}"})
    statements.clear()
    answer = client.get(f"/v1/jobs/{run.job_id}").json()
    assert [file["name"] for file in answer["artifacts"]] == ["certificate.json", "model.onnx"]
    assert len(statements) == 2


def test_reads_are_in_no_transaction(
    client: TestClient, start_run: Callable[..., Any], statements: list[str]
) -> None:
    run = start_run()
    engine = client.app.state.context.database.engine  # type: ignore[attr-defined]
    begun: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *a: begun.append(a[2].split()[0]))
    for path in (f"/v1/jobs/{run.job_id}", "/v1/jobs", f"/v1/jobs/{run.job_id}/events"):
        assert client.get(path).status_code == 200
    assert set(begun) == {"SELECT"}


def test_a_request_goes_to_a_thread_once_and_with_a_key_twice(
    client: TestClient,
    spec: dict[str, Any],
    make_key: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hops: list[str] = []
    called, run_sync = threads._called, anyio.to_thread.run_sync

    async def count_ours(pool: Any, function: Any) -> Any:
        hops.append("database")
        return await called(pool, function)

    async def count_others(function: Any, *arguments: Any, **options: Any) -> Any:
        hops.append("other")
        return await run_sync(function, *arguments, **options)

    monkeypatch.setattr(threads, "_called", count_ours)
    monkeypatch.setattr(anyio.to_thread, "run_sync", count_others)

    def hops_of(method: str, path: str, **more: Any) -> list[str]:
        hops.clear()
        assert client.request(method, path, **more).status_code in (200, 202)
        return hops.copy()

    # Whether a key is needed is asked once a second, whatever is served.
    monkeypatch.setattr("app.auth.LOOK_SECONDS", 3600.0)
    location = client.post("/v1/jobs", json=spec).headers["Location"]
    assert hops_of("GET", location) == ["database"]
    assert hops_of("POST", "/v1/jobs", json=spec, headers={"Idempotency-Key": "k"}) == ["database"]
    with_key = bearer(make_key())
    client.get(location, headers=with_key)  # notes the use of the key
    assert hops_of("GET", location, headers=with_key) == ["database"] * 2


def test_creating_a_job_asks_little_of_the_database(
    client: TestClient, spec: dict[str, Any], statements: list[str]
) -> None:
    assert client.post("/v1/jobs", json=spec).status_code == 202
    assert [statement.split()[:3] for statement in statements] == [
        ["SELECT", "tenant_quota.queued_jobs,", "tenant_quota.running_jobs,"],
        ["INSERT", "INTO", "job"],
        ["INSERT", "INTO", "event"],
        ["INSERT", "INTO", "audit_event"],
    ]


def test_nobody_elses_job_is_known_by_its_version(client: TestClient, add_job: Callable[..., str]) -> None:
    job_id = add_job(tenant="other")
    for headers in ({"If-None-Match": '"1"'}, {"Prefer": "wait=1"}):
        assert client.get(f"/v1/jobs/{job_id}", headers=headers).status_code == 404


@pytest.mark.parametrize("dependency", [context_of, tenant_of, caller_of, keyed, parameters_are_known])
def test_dependencies_of_every_request_need_no_thread(dependency: Callable[..., Any]) -> None:
    assert asyncio.iscoroutinefunction(dependency)


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with _listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_fifty_streams_miss_nothing_while_their_jobs_go_on(
    client: TestClient, start_run: Callable[..., Any]
) -> None:
    runs = [start_run() for _ in range(JOBS)]
    seen: dict[int, list[int]] = {}
    open_streams = threading.Barrier(STREAMS + 1)

    def follow(number: int) -> None:
        url = f"/v1/jobs/{runs[number % JOBS].job_id}/events"
        ids: list[int] = []
        with client.stream("GET", url, headers=STREAM) as answer:
            open_streams.wait(timeout=60)
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    ids.append(int(line[4:]))
        seen[number] = ids

    followers = [threading.Thread(target=follow, args=[number]) for number in range(STREAMS)]
    for thread in followers:
        thread.start()
    open_streams.wait(timeout=60)
    for step in range(EVENTS):
        for run in runs:
            run.event(f"step {step}")
    for run in runs:
        run.succeed()
    for thread in followers:
        thread.join(timeout=60)
        assert not thread.is_alive()
    for number in range(STREAMS):
        url = f"/v1/jobs/{runs[number % JOBS].job_id}/events"
        listed = [each["id"] for each in client.get(url, params={"limit": 100}).json()["data"]]
        assert len(listed) == EVENTS + 3  # created, started, succeeded
        assert seen[number] == listed


def test_streams_at_the_same_event_read_once() -> None:
    async def ask() -> None:
        reads: SharedReads[str] = SharedReads(asyncio.to_thread)
        started, may_end = threading.Event(), threading.Event()
        calls: list[str] = []

        def read(name: str) -> str:
            calls.append(name)
            started.set()
            assert may_end.wait(timeout=20)
            return name

        impatient = asyncio.create_task(reads.read("a", lambda: read("a")))
        others = [asyncio.create_task(reads.read("a", lambda: read("again"))) for _ in range(9)]
        another = asyncio.create_task(reads.read("b", lambda: read("b")))
        await asyncio.to_thread(started.wait, 20)
        impatient.cancel()
        may_end.set()
        assert await asyncio.gather(*others, another) == ["a"] * 9 + ["b"]
        assert sorted(calls) == ["a", "b"]
        assert await reads.read("a", lambda: read("later")) == "later"

    asyncio.run(ask())


def test_others_have_their_turn_between_the_clients_of_changed_jobs() -> None:
    """However many jobs changed: a request that came meanwhile does not wait until all were told."""
    jobs = [f"job_{number}" for number in range(20)]

    async def turns_at_which_jobs_are_told() -> list[int]:
        async def read(_: Any) -> dict[str, JobState]:
            return {job: JobState(1, False) for job in jobs}

        watcher = JobWatcher(read, interval=60)
        turns, told = 0, []

        async def follow(job: str) -> None:
            with watcher.watch(job) as watch:
                assert await watch.until(lambda state: state.version == 1, 20)
            told.append(turns)

        followers = [asyncio.create_task(follow(job)) for job in jobs for _ in range(3)]
        await asyncio.sleep(0)
        looking = asyncio.create_task(watcher.run())
        while not all(follower.done() for follower in followers):
            turns += 1
            await asyncio.sleep(0)
        looking.cancel()
        return told

    told = asyncio.run(turns_at_which_jobs_are_told())
    assert len(told) == 3 * len(jobs)
    assert len(set(told)) == len(jobs)


def test_streams_send_what_one_of_them_read(
    client: TestClient, start_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten streams that wait for the same change: it is read and written as messages once."""
    written: list[str] = []
    describe = events._describe

    def counted(row: Any) -> Any:
        written.append(row.message)
        return describe(row)

    monkeypatch.setattr(events, "_describe", counted)
    run = start_run()
    watcher = client.app.state.context.watcher  # type: ignore[attr-defined]

    def follow() -> None:
        with client.stream("GET", f"/v1/jobs/{run.job_id}/events", headers=STREAM) as answer:
            answer.read()

    followers = [threading.Thread(target=follow) for _ in range(10)]
    for thread in followers:
        thread.start()
    deadline = time.monotonic() + 20
    while run.job_id not in watcher._topics or watcher._topics[run.job_id].watchers < 10:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.event("told to all")
    run.succeed()
    for thread in followers:
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert written.count("told to all") <= 2


def test_a_job_is_answered_as_the_list_shows_it(client: TestClient, start_run: Callable[..., Any]) -> None:
    run = start_run()
    run.succeed({"constraints_met": True}, **{"certificate.json": b"{}"})
    one = client.get(f"/v1/jobs/{run.job_id}")
    assert one.headers["Content-Type"] == "application/json"
    assert json.loads(one.content) == client.get("/v1/jobs").json()["data"][0]
