"""What requests cost, counted rather than timed."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.command import _listening
from app.context import context_of, tenant_of
from app.events.sharing import SharedReads
from app.parameters import refuse_unknown

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


def test_creating_a_job_asks_little_of_the_database(
    client: TestClient, spec: dict[str, Any], statements: list[str]
) -> None:
    assert client.post("/v1/jobs", json=spec).status_code == 202
    assert [statement.split()[:3] for statement in statements] == [
        ["SELECT", "tenant_quota.tenant,", "tenant_quota.queued_jobs,"],
        ["INSERT", "INTO", "job"],
        ["INSERT", "INTO", "event"],
        ["SELECT", "webhook.id,", "webhook.tenant,"],
        ["INSERT", "INTO", "audit_event"],
    ]


def test_nobody_elses_job_is_known_by_its_version(client: TestClient, add_job: Callable[..., str]) -> None:
    job_id = add_job(tenant="other")
    for headers in ({"If-None-Match": '"1"'}, {"Prefer": "wait=1"}):
        assert client.get(f"/v1/jobs/{job_id}", headers=headers).status_code == 404


@pytest.mark.parametrize("dependency", [context_of, tenant_of, refuse_unknown])
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
        reads: SharedReads[str] = SharedReads()
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


def test_a_job_is_answered_as_the_list_shows_it(client: TestClient, start_run: Callable[..., Any]) -> None:
    run = start_run()
    run.succeed({"constraints_met": True}, **{"certificate.json": b"{}"})
    one = client.get(f"/v1/jobs/{run.job_id}")
    assert one.headers["Content-Type"] == "application/json"
    assert json.loads(one.content) == client.get("/v1/jobs").json()["data"][0]
