"""Threads for the database: reads do not wait for writes, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from app.threads import DatabaseThreads

name: ContextVar[str] = ContextVar("name")


@pytest.fixture
def threads() -> Iterator[DatabaseThreads]:
    threads = DatabaseThreads(1, 1)
    yield threads
    threads.close()


def test_reads_go_on_while_a_write_waits(threads: DatabaseThreads) -> None:
    written = threading.Event()

    async def both() -> str:
        write = asyncio.create_task(threads.write(written.wait, 20))
        read = await asyncio.wait_for(threads.read(str.upper, "read"), 10)
        written.set()
        assert await write
        return read

    assert asyncio.run(both()) == "READ"


def test_what_is_called_knows_the_request(threads: DatabaseThreads) -> None:
    async def named() -> str:
        name.set("this request")
        return await threads.read(name.get)

    assert asyncio.run(named()) == "this request"


def test_a_call_that_waited_too_long_is_not_begun(
    threads: DatabaseThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.threads.PATIENCE_SECONDS", -1.0)
    begun: list[int] = []
    with pytest.raises(NoConnectionFree):
        asyncio.run(threads.write(begun.append, 1))
    assert begun == []


def test_it_is_answered_as_trouble_that_passes(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.threads.PATIENCE_SECONDS", -1.0)
    answer = client.get("/v1/jobs/job_1")
    assert (answer.status_code, answer.json()["retryable"]) == (503, True)
