"""Retries, errors and addresses."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from axforge import AxforgeError, Client, ConnectionFailed, ProblemError, RetryPolicy
from axforge.retries import retry_after_seconds
from tests.sdk.samples import JOB_ID, SPEC, Script, artifact, job, page, problem


def ok() -> httpx.Response:
    return httpx.Response(200, json=job("running"))


def test_an_idempotent_request_outlives_a_bad_connection_and_a_busy_server() -> None:
    server = Script(
        httpx.ConnectError("refused"), problem(503, "service_unavailable", {"Retry-After": "7"}), ok()
    )
    assert server.client().job(JOB_ID).status == "running"
    assert len(server.requests) == 3
    assert server.waits[1] >= 7.0


def test_creating_a_job_is_retried_under_one_idempotency_key() -> None:
    server = Script(httpx.ReadTimeout("slow"), problem(429, "rate_limited"), ok())
    server.client().create_job(SPEC)
    keys = {request.headers["Idempotency-Key"] for request in server.requests}
    assert len(server.requests) == 3
    assert len(keys) == 1
    assert len(keys.pop()) >= 32


def test_an_upload_is_retried_under_one_idempotency_key(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\n")
    server = Script(httpx.ReadTimeout("slow"), problem(503, "service_unavailable"), problem(409, "conflict"))
    with pytest.raises(ProblemError):
        server.client().upload(tmp_path / "data.csv", "dataset")
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 1
    assert len(server.requests) == 3


def test_two_calls_have_two_idempotency_keys() -> None:
    server = Script(ok(), ok())
    client = server.client()
    client.create_job(SPEC)
    client.create_job(SPEC)
    first, second = (request.headers["Idempotency-Key"] for request in server.requests)
    assert first != second


def test_what_a_retry_cannot_mend_is_raised_at_once_with_all_that_the_server_said() -> None:
    errors = [{"pointer": "/focus", "detail": "Should be 'speed'.", "remedy": "Did you mean `speed`?"}]
    server = Script(
        problem(422, "invalid_request", {"X-Request-Id": "req_1"}, errors=errors, remedy="Mend it.")
    )
    with pytest.raises(ProblemError) as caught:
        server.client().create_job(SPEC)
    error = caught.value
    assert (error.code, error.status, error.remedy) == ("invalid_request", 422, "Mend it.")
    assert (error.errors[0].where, error.errors[0].remedy) == ("/focus", "Did you mean `speed`?")
    assert error.request_id == "req_1"
    assert len(server.requests) == 1


def test_patience_ends() -> None:
    server = Script(*[httpx.ConnectError("refused")] * 3)
    with pytest.raises(ConnectionFailed, match=r"axforge\.test"):
        server.client(retries=2).job(JOB_ID)
    assert len(server.requests) == 3


def test_a_very_long_retry_after_is_handed_to_the_caller() -> None:
    server = Script(problem(429, "rate_limited", {"Retry-After": "3600"}))
    with pytest.raises(ProblemError) as caught:
        server.client().job(JOB_ID)
    assert caught.value.retry_after == 3600.0
    assert server.waits == []


def test_an_error_that_is_no_problem_document_still_is_a_problem() -> None:
    server = Script(httpx.Response(502, text="<html>Bad gateway</html>"))
    with pytest.raises(ProblemError) as caught:
        server.client(retries=0).job(JOB_ID)
    assert (caught.value.code, caught.value.title) == ("http_502", "Bad Gateway")


def test_a_server_that_is_something_else_is_named() -> None:
    server = Script(httpx.Response(200, text="Welcome to nginx"))
    with pytest.raises(AxforgeError, match="is this an axforge server"):
        server.client().job(JOB_ID)


def test_words_and_fields_that_are_new_do_not_break_an_old_client() -> None:
    server = Script(httpx.Response(200, json=job("hibernating", mood="calm")))
    found = server.client().job(JOB_ID)
    assert found.status == "hibernating"
    assert found.model_dump()["mood"] == "calm"


def test_the_backoff_grows_and_is_jittered() -> None:
    policy = RetryPolicy(retries=8, first_wait=1.0, longest_wait=10.0, random=random.Random(0))
    waits = [[policy.wait_before(attempt, None) or 0.0 for _ in range(200)] for attempt in range(8)]
    assert [max(each) <= min(10.0, 2.0**attempt) for attempt, each in enumerate(waits)] == [True] * 8
    assert max(waits[0]) < 1.01 < 8.0 < max(waits[5])
    assert len(set(waits[3])) > 100
    assert policy.wait_before(8, None) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("12", 12.0),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60.0),
        ("Fri, 02 Jan 2026 03:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_comes_as_a_number_or_a_date(header: str, seconds: float | None) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert retry_after_seconds({"retry-after": header}, now=now) == seconds


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host", "http://", "nonsense"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(AxforgeError, match="something like"):
        Client(address)


@pytest.mark.parametrize("address", ["https://evil.test/x", "//evil.test/x"])
def test_the_key_is_sent_nowhere_else(address: str) -> None:
    listed = artifact("certificate.json", b"{}", "0" * 64) | {"url": address}
    server = Script(page([listed]))
    with pytest.raises(AxforgeError, match="no path of its own"):
        server.client().certificate(JOB_ID)
    assert len(server.requests) == 1
    assert server.requests[0].headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("job_id", ["", "../uploads", "job_1/cancel", "a b"])
def test_an_id_cannot_leave_its_path(job_id: str) -> None:
    server = Script()
    with pytest.raises(AxforgeError, match="not the id of a job"):
        server.client().job(job_id)
