"""Documents as a server answers them, for tests without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from axforge import Client, RetryPolicy

JOB_ID = "job_0190a1b2c3d4e5f60718293a4b5c"
MOMENT = "2026-01-02T03:04:05Z"
MEASUREMENTS = {
    "metric": 0.91,
    "parameters": 22_000_000,
    "macs": 85_000_000,
    "size_bytes": 23_000_000,
    "speedup": 2.5,
}
SPEC = {"base_model": {"hub": "org/model"}, "dataset": {"hub": "org/data"}}
CERTIFICATE: dict[str, Any] = {
    "dense": {
        "metric": {"name": "accuracy", "value": 0.92},
        "latency_ms": {"p50": 8.0, "p95": 9.5},
        "throughput": 125.0,
        "size_bytes": 90_900_000,
        "parameters": 22_713_216,
        "macs": 340_000_000,
    },
    "optimized": {
        "metric": {"name": "accuracy", "value": 0.9154},
        "latency_ms": {"p50": 2.0, "p95": 2.5},
        "throughput": 500.0,
        "size_bytes": 15_150_000,
        "parameters": 14_000_000,
        "macs": 85_000_000,
    },
    "ratios": {
        "speedup": 4.0,
        "size_reduction": 6.0,
        "relative_drop": 0.005,
        "relative_drop_interval": [-0.002, 0.0121],
    },
    "constraints": [
        {"name": "accuracy.max_relative_drop", "required": 0.01, "measured": 0.005, "met": True},
        {"name": "speed.min_speedup", "required": 5.0, "measured": 4.0, "met": False},
    ],
    "constraints_met": False,
    "verdict": "best_effort",
    "loadable": "native",
    "device": "cpu",
    "runtime": "onnxruntime",
    "versions": {"onnxruntime": "1.31"},
    "seed": 0,
    "spec_digest": "0" * 64,
    "artifacts": {},
    "holdout_rows": 872,
    "recipe": {"steps": []},
    "spread": {},
}


def job(status: str = "queued", **changes: Any) -> dict[str, Any]:
    """A job in that status."""
    path = f"/v1/jobs/{JOB_ID}"
    return {
        "id": JOB_ID,
        "object": "job",
        "name": "banking77",
        "status": status,
        "done": status in {"succeeded", "failed", "cancelled"},
        "constraints_met": None,
        "cancel_requested": False,
        "progress": None,
        "attempt": 1,
        "error": None,
        "result": None,
        "artifacts": [],
        "metadata": {},
        "spec": SPEC,
        "spec_digest": "0" * 64,
        "created_at": MOMENT,
        "updated_at": MOMENT,
        "started_at": None,
        "finished_at": None,
        "expires_at": None,
        "links": {
            "self": path,
            "events": f"{path}/events",
            "candidates": f"{path}/candidates",
            "artifacts": f"{path}/artifacts",
            "cancel": f"{path}/cancel",
        },
        **changes,
    }


def event(id: int, **changes: Any) -> dict[str, Any]:
    """The event with that id."""
    return {
        "id": id,
        "object": "event",
        "job_id": JOB_ID,
        "attempt": 1,
        "type": "dataset.columns",
        "level": "info",
        "message": f"event {id}",
        "data": {},
        "created_at": MOMENT,
        **changes,
    }


def candidate(number: int, **changes: Any) -> dict[str, Any]:
    """The candidate with that number."""
    return {
        "object": "candidate",
        "job_id": JOB_ID,
        "number": number,
        "stage": "search",
        "recipe": {"steps": []},
        "measurements": MEASUREMENTS,
        "accepted": True,
        "reason": "the loss fell",
        "on_front": False,
        "export_job_id": None,
        "created_at": MOMENT,
        **changes,
    }


def artifact(name: str, content: bytes, sha256: str) -> dict[str, Any]:
    """A file of the job."""
    return {
        "id": "art_1",
        "object": "artifact",
        "name": name,
        "size": len(content),
        "sha256": sha256,
        "media_type": "application/octet-stream",
        "created_at": MOMENT,
        "url": f"/v1/jobs/{JOB_ID}/artifacts/{name}",
    }


def page(data: list[dict[str, Any]], *, has_more: bool = False) -> httpx.Response:
    """A page of a list."""
    return httpx.Response(200, json={"object": "list", "data": data, "has_more": has_more})


def problem(status: int, code: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    """An error answer."""
    document = {"type": f"urn:axforge:problem:{code}", "status": status, "code": code, **more}
    document = {"title": "It went wrong", "detail": "Something.", "retryable": False, **document}
    return httpx.Response(
        status,
        content=json.dumps(document),
        headers={"Content-Type": "application/problem+json", **(headers or {})},
    )


class Stream(httpx.SyncByteStream):
    """A body that arrives in one chunk, and may break off behind it."""

    def __init__(self, content: bytes, error: Exception | None = None) -> None:
        self.content = content
        self.error = error

    def __iter__(self) -> Iterator[bytes]:
        yield self.content
        if self.error is not None:
            raise self.error


class Script:
    """A server that answers with what it was given, in order, and remembers what it was asked.

    An exception among the answers is raised, as a connection that fails.
    """

    def __init__(self, *answers: httpx.Response | BaseException) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def client(self, retries: int = 5) -> Client:
        """A client of this server that waits in no time."""
        return Client(
            "http://axforge.test",
            "secret",
            policy=RetryPolicy(retries=retries),
            transport=httpx.MockTransport(self),
            sleep=self.waits.append,
        )
