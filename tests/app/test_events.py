"""Events: pages, and streams that lose nothing and end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

STREAM = {"Accept": "text/event-stream"}


def test_pages_go_on_behind_the_last_event(client: TestClient, start_run: Callable[..., Any]) -> None:
    run = start_run()
    for number in range(5):
        run.event(f"note {number}")
    url = f"/v1/jobs/{run.job_id}/events"
    first = client.get(url, params={"limit": 4}).json()
    rest = client.get(url, params={"limit": 4, "after": first["data"][-1]["id"]}).json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    messages = [event["message"] for event in first["data"] + rest["data"]]
    assert messages[2:] == [f"note {number}" for number in range(5)]
    assert client.get(url).json()["data"] == first["data"] + rest["data"]


def test_stream_tells_everything_and_ends_with_the_job(
    client: TestClient, start_run: Callable[..., Any]
) -> None:
    run = start_run()

    def work() -> None:
        run.event("guessed")
        run.progress(stage="search", step=1, total=2, fraction=0.5)
        run.succeed()

    worker = threading.Timer(0.2, work)
    worker.start()
    with client.stream("GET", f"/v1/jobs/{run.job_id}/events", headers=STREAM) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        messages = list(_messages(answer.iter_lines()))
    worker.join()
    listed = client.get(f"/v1/jobs/{run.job_id}/events").json()["data"]
    events = [message for message in messages if message["event"] == "event"]
    assert [json.loads(message["data"]) for message in events] == listed
    assert [int(message["id"]) for message in events] == [event["id"] for event in listed]
    assert all("id" not in message for message in messages if message["event"] != "event")
    assert messages[-1]["event"] == "end"
    assert json.loads(messages[-1]["data"]) == {"status": "succeeded"}
    statuses = [json.loads(m["data"])["status"] for m in messages if m["event"] == "progress"]
    assert statuses[0] == "running"
    assert statuses[-1] == "succeeded"


def test_stream_resumes_behind_the_last_event_id(client: TestClient, start_run: Callable[..., Any]) -> None:
    run = start_run()
    for number in range(250):  # more than one look of the stream
        run.event(f"note {number}")
    run.succeed()
    url = f"/v1/jobs/{run.job_id}/events"
    with client.stream("GET", url, headers=STREAM) as answer:
        whole = [m for m in _messages(answer.iter_lines()) if m["event"] == "event"]
    assert len(whole) == 253
    resumed = {**STREAM, "Last-Event-ID": whole[9]["id"]}
    with client.stream("GET", url, headers=resumed) as answer:
        rest = [m for m in _messages(answer.iter_lines()) if m["event"] == "event"]
    assert rest == whole[10:]


def test_stream_of_a_job_that_has_told_all_stops_reconnecting(
    client: TestClient, start_run: Callable[..., Any]
) -> None:
    run = start_run()
    run.succeed()
    url = f"/v1/jobs/{run.job_id}/events"
    last = client.get(url).json()["data"][-1]["id"]
    assert client.get(url, headers={**STREAM, "Last-Event-ID": str(last)}).status_code == 204


def test_quiet_stream_gives_signs_of_life(
    client: TestClient, start_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.events.endpoints.HEARTBEAT_SECONDS", 0.05)
    run = start_run()
    end = threading.Timer(0.5, run.succeed)
    end.start()
    with client.stream("GET", f"/v1/jobs/{run.job_id}/events", headers=STREAM) as answer:
        lines = list(answer.iter_lines())
    end.join()
    assert sum(line.startswith(":") for line in lines) >= 3


@pytest.mark.parametrize("header", ["x", "-1", "1.5", "9" * 30])
def test_last_event_id_that_is_none(client: TestClient, add_job: Callable[..., str], header: str) -> None:
    url = f"/v1/jobs/{add_job()}/events"
    answer = client.get(url, headers={**STREAM, "Last-Event-ID": header})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "Last-Event-ID"


def test_many_streams_cost_one_query_a_look(
    client: TestClient, start_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = client.app.state.context.watcher  # type: ignore[attr-defined]
    asked: list[int] = []
    read = watcher._read

    def counted(ids: Any) -> Any:
        asked.append(len(ids))
        return read(ids)

    monkeypatch.setattr(watcher, "_read", counted)
    runs = [start_run() for _ in range(3)]

    def follow(job_id: str) -> None:
        with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as answer:
            answer.read()

    followers = [threading.Thread(target=follow, args=[run.job_id]) for run in runs for _ in range(5)]
    ends = [threading.Timer(1.0, run.succeed) for run in runs]
    for thread in followers + ends:
        thread.start()
    for thread in followers + ends:
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert max(asked) == 3
    assert not watcher._topics


def _messages(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    message: dict[str, str] = {}
    for line in lines:
        if not line and message:
            yield message
            message = {}
        elif line and not line.startswith(":"):
            field, _, value = line.partition(": ")
            message[field] = value
