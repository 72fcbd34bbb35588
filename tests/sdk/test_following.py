"""Waiting for a job, and its events as they happen."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from axforge import ConnectionFailed, WaitTimeout
from axforge.sse import Message, parse
from tests.sdk.samples import JOB_ID, Script, Stream, candidate, event, job, page, problem


def stream(text: str, *, cut: bool = False) -> httpx.Response:
    error = httpx.RemoteProtocolError("peer closed connection") if cut else None
    headers = {"Content-Type": "text/event-stream; charset=utf-8"}
    return httpx.Response(200, headers=headers, stream=Stream(text.encode(), error))


def told(*ids: int, end: bool = False) -> str:
    """The text of a stream."""
    text = "".join(f"id: {id}\nevent: event\ndata: {json.dumps(event(id))}\n\n" for id in ids)
    text += 'event: progress\ndata: {"status": "running"}\n\n: keep-alive\n\n'
    return text + ('event: end\ndata: {"status": "succeeded"}\n\n' if end else "")


def answer(document: dict[str, Any], etag: str | None = None) -> httpx.Response:
    return httpx.Response(200, json=document, headers={"ETag": etag} if etag else {})


def test_a_broken_stream_is_taken_up_behind_the_last_event() -> None:
    server = Script(
        stream(told(1, 2), cut=True),
        answer(job("running")),
        stream(told(2, 3, end=True)),
        answer(job("succeeded")),
        page([]),
    )
    assert [each.id for each in server.client().stream_events(JOB_ID)] == [1, 2, 3]
    assert "Last-Event-ID" not in server.requests[0].headers
    assert server.requests[2].headers["Last-Event-ID"] == "2"
    assert server.requests[0].headers["Accept"] == "text/event-stream"


def test_a_server_that_does_not_stream_is_polled() -> None:
    server = Script(
        page([]),
        answer(job("running")),
        page([event(1)]),
        answer(job("succeeded")),
        page([event(2)]),
    )
    assert [each.id for each in server.client().stream_events(JOB_ID)] == [1, 2]
    assert server.requests[4].url.params["after"] == "1"


def test_a_proxy_that_refuses_streams_is_polled() -> None:
    server = Script(problem(406, "not_acceptable"), answer(job("succeeded")), page([event(1)]))
    assert [each.id for each in server.client().stream_events(JOB_ID)] == [1]


def test_a_stream_that_never_brings_anything_is_given_up() -> None:
    broken = [stream("", cut=True), answer(job("running"))]
    server = Script(*broken, stream("", cut=True))
    with pytest.raises(ConnectionFailed, match="broke off"):
        list(server.client(retries=1).stream_events(JOB_ID))


def test_events_are_fetched_page_by_page() -> None:
    server = Script(page([event(1), event(2)], has_more=True), page([event(3)]))
    assert [each.id for each in server.client().events(JOB_ID)] == [1, 2, 3]
    assert [request.url.params["after"] for request in server.requests] == ["0", "2"]


def test_wait_tells_every_change_and_asks_with_the_version_it_has() -> None:
    server = Script(
        answer(job("running"), '"1"'),
        page([event(4)]),
        page([candidate(0)]),
        httpx.Response(304),
        answer(job("succeeded", constraints_met=True), '"2"'),
        page([event(5)]),
        page([]),
    )
    states: list[str] = []
    events: list[int] = []
    candidates: list[int] = []
    found = server.client().wait(
        JOB_ID,
        on_progress=lambda job: states.append(job.status),
        on_event=lambda event: events.append(event.id),
        on_candidate=lambda candidate: candidates.append(candidate.number),
    )
    assert found.constraints_met
    assert (states, events, candidates) == (["running", "succeeded"], [4, 5], [0])
    assert "Prefer" not in server.requests[0].headers
    assert server.requests[3].headers["If-None-Match"] == '"1"'
    assert server.requests[3].headers["Prefer"] == "wait=20"
    assert server.requests[5].url.params["after"] == "4"
    assert server.requests[6].url.params["after"] == "0"


def test_wait_gives_up_when_told_to() -> None:
    with pytest.raises(WaitTimeout, match="the server goes on"):
        Script().client().wait(JOB_ID, timeout=0)


def test_jobs_are_listed_over_pages_up_to_the_limit() -> None:
    first = {"object": "list", "data": [job(), job()], "has_more": True, "next_cursor": "abc"}
    second = {"object": "list", "data": [job(), job()], "has_more": True, "next_cursor": "def"}
    server = Script(answer(first), answer(second))
    assert len(list(server.client().jobs(status=["queued", "running"], limit=4))) == 4
    assert server.requests[1].url.params["cursor"] == "abc"
    assert server.requests[1].url.params["limit"] == "2"
    assert server.requests[0].url.params.get_list("status") == ["queued", "running"]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_stream_format_whatever_the_line_ends_and_chunks(size: int, end: str) -> None:
    text = end.join(
        [": hello", "id: 7", "data: one", "data:two\u2028three", "", "event: end", "data", "", "data: lost"]
    )
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    assert list(parse(chunks)) == [
        Message("7", "message", "one\ntwo\u2028three"),
        Message("7", "end", ""),
    ]
