"""Jobs over HTTP: create once, read with ETag, wait, list, cancel."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from app.jobs.examples import JOB_EXAMPLES
from models.lifecycle import JobError
from models.spec import JobSpec


def test_created_job_is_answered_whole(client: TestClient, spec: dict[str, Any]) -> None:
    answer = client.post("/v1/jobs", json={**spec, "name": "first"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert int(answer.headers["Retry-After"]) >= 1
    assert (job["object"], job["name"], job["status"], job["done"]) == ("job", "first", "queued", False)
    assert job["metadata"] == {"team": "search"}
    assert JobSpec.model_validate(job["spec"]).digest() == job["spec_digest"]
    assert client.get(answer.headers["Location"]).json() == job
    events = client.get(job["links"]["events"]).json()["data"]
    assert [event["type"] for event in events] == ["job.created"]


def test_yaml_is_taken_like_json(client: TestClient, spec: dict[str, Any]) -> None:
    text = yaml.safe_dump(spec) + "recovery: off\n"
    answer = client.post("/v1/jobs", content=text, headers={"Content-Type": "application/yaml"})
    assert answer.status_code == 202
    assert answer.json()["spec"]["recovery"] == "off"
    assert answer.json()["spec"]["base_model"]["hub"] == "a/b"


def test_same_key_and_spec_give_the_same_job_once(client: TestClient, spec: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "first-try"}
    first = client.post("/v1/jobs", json=spec, headers=key)
    again = client.post("/v1/jobs", json=spec, headers=key)
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_same_key_with_another_spec_is_refused(client: TestClient, spec: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "first-try"}
    client.post("/v1/jobs", json=spec, headers=key)
    other = client.post("/v1/jobs", json={**spec, "name": "other"}, headers=key)
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_key_reused"


def test_requests_with_one_key_at_the_same_time_make_one_job(
    client: TestClient, spec: dict[str, Any]
) -> None:
    ids: list[str] = []

    def send() -> None:
        answer = client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "race"})
        ids.append(answer.json()["id"])

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1


def test_dry_run_plans_and_stores_nothing(client: TestClient, spec: dict[str, Any]) -> None:
    target = {"runtime": "torch"}
    answer = client.post("/v1/jobs?dry_run=true", json={**spec, "recovery": "off", "target": target})
    plan = answer.json()
    assert answer.status_code == 200
    assert plan["object"] == "plan"
    assert "recover" not in plan["stages"]
    assert "certify" in plan["stages"]
    assert "quantize" not in plan["approximations"]
    assert "prune_heads" in plan["approximations"]
    assert any("`quantize`" in warning for warning in plan["warnings"])
    assert client.get("/v1/jobs").json()["data"] == []
    size = {**spec, "target": target, "focus": "size", "constraints": {"size": {"min_reduction": 2.0}}}
    plan = client.post("/v1/jobs?dry_run=true", json=size).json()
    assert "quantize" in plan["approximations"]
    assert plan["warnings"] == []


def test_dry_run_checks_what_create_checks(client: TestClient, spec: dict[str, Any]) -> None:
    bad = {**spec, "base_model": {"path": "/etc"}}
    for path in ("/v1/jobs?dry_run=true", "/v1/jobs"):
        answer = client.post(path, json=bad)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/base_model/path"


def test_unchanged_job_is_304_until_it_changes(client: TestClient, start_run: Callable[..., Any]) -> None:
    run = start_run()
    url = f"/v1/jobs/{run.job_id}"
    etag = client.get(url).headers["ETag"]
    same = client.get(url, headers={"If-None-Match": etag})
    assert same.status_code == 304
    assert same.content == b""
    assert same.headers["ETag"] == etag
    run.progress(stage="search", step=1, total=4, fraction=0.25, eta_seconds=9.0, message="heads")
    changed = client.get(url, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag
    assert changed.json()["progress"] == {
        "stage": "search",
        "step": 1,
        "total": 4,
        "fraction": 0.25,
        "eta_seconds": 9.0,
        "message": "heads",
    }


def test_wait_with_an_etag_ends_when_the_job_changes(
    client: TestClient, start_run: Callable[..., Any]
) -> None:
    run = start_run()
    url = f"/v1/jobs/{run.job_id}"
    etag = client.get(url).headers["ETag"]
    change = threading.Timer(0.2, run.event, ["columns"])
    change.start()
    began = time.monotonic()
    answer = client.get(url, headers={"If-None-Match": etag, "Prefer": "wait=20"})
    change.join()
    assert answer.status_code == 200
    assert answer.headers["ETag"] != etag
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert time.monotonic() - began < 10


def test_wait_without_an_etag_ends_when_the_job_is_done(
    client: TestClient, start_run: Callable[..., Any]
) -> None:
    run = start_run()

    def finish() -> None:
        run.event("not the end yet")
        run.succeed({"constraints_met": True})

    end = threading.Timer(0.2, finish)
    end.start()
    job = client.get(f"/v1/jobs/{run.job_id}", headers={"Prefer": "respond-async, wait=20"}).json()
    end.join()
    assert (job["status"], job["done"], job["constraints_met"]) == ("succeeded", True, True)


def test_wait_that_runs_out_answers_304(client: TestClient, start_run: Callable[..., Any]) -> None:
    url = f"/v1/jobs/{start_run().job_id}"
    etag = client.get(url).headers["ETag"]
    answer = client.get(url, headers={"If-None-Match": etag, "Prefer": "wait=1"})
    assert answer.status_code == 304


def test_failed_job_tells_its_error(client: TestClient, start_run: Callable[..., Any]) -> None:
    run = start_run()
    run.fail(JobError("dataset_columns", "No label column.", "Name it.", "/dataset/columns/label"))
    job = client.get(f"/v1/jobs/{run.job_id}").json()
    assert (job["status"], job["done"], job["constraints_met"]) == ("failed", True, None)
    assert job["error"] == {
        "code": "dataset_columns",
        "detail": "No label column.",
        "remedy": "Name it.",
        "pointer": "/dataset/columns/label",
        "retryable": False,
    }
    assert "Retry-After" not in client.get(f"/v1/jobs/{run.job_id}").headers


def test_pages_show_every_job_once_newest_first(client: TestClient, add_job: Callable[..., str]) -> None:
    ids = [add_job(name=f"job {number}") for number in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = client.get("/v1/jobs", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        seen += [job["id"] for job in page["data"]]
        add_job(name="newer than the first page")
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert seen == ids[::-1]
    assert cursor is None


def test_list_is_narrowed(
    client: TestClient, add_job: Callable[..., str], start_run: Callable[..., Any]
) -> None:
    queued = add_job(name="one")
    run = start_run(name="two")
    done = start_run(name="two")
    done.succeed()
    created_at = client.get(f"/v1/jobs/{run.job_id}").json()["created_at"]

    def ids(**params: Any) -> set[str]:
        return {job["id"] for job in client.get("/v1/jobs", params=params).json()["data"]}

    assert ids(status="queued") == {queued}
    assert ids(status=["queued", "succeeded"]) == {queued, done.job_id}
    assert ids(name="two") == {run.job_id, done.job_id}
    assert ids(name="two", status="running") == {run.job_id}
    assert ids(created_before=created_at) == {queued}
    assert ids(created_after=created_at) == {done.job_id}


def test_queued_job_is_cancelled_at_once_and_again(client: TestClient, add_job: Callable[..., str]) -> None:
    url = f"/v1/jobs/{add_job()}/cancel"
    for _ in range(2):
        answer = client.post(url)
        assert answer.status_code == 200
        assert answer.json()["status"] == "cancelled"


def test_running_job_is_asked_to_stop(client: TestClient, start_run: Callable[..., Any]) -> None:
    answer = client.post(f"/v1/jobs/{start_run().job_id}/cancel")
    assert answer.status_code == 202
    assert answer.json()["status"] == "running"
    assert answer.json()["cancel_requested"] is True


def test_job_that_has_ended_cannot_be_cancelled(client: TestClient, start_run: Callable[..., Any]) -> None:
    run = start_run()
    run.succeed()
    answer = client.post(f"/v1/jobs/{run.job_id}/cancel")
    assert answer.status_code == 409
    assert answer.json()["code"] == "job_done"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", "/cancel"),
        ("GET", "/events"),
        ("GET", "/candidates"),
        ("GET", "/candidates/0"),
        ("GET", "/artifacts"),
        ("GET", "/artifacts/model.onnx"),
        ("HEAD", "/artifacts/model.onnx"),
    ],
)
def test_other_tenants_jobs_do_not_exist(
    client: TestClient, add_job: Callable[..., str], method: str, path: str
) -> None:
    theirs = add_job(tenant="somebody-else")
    for job_id in (theirs, "job_unknown"):
        answer = client.request(method, f"/v1/jobs/{job_id}{path}")
        assert answer.status_code == 404
        assert method == "HEAD" or answer.json()["code"] == "not_found"
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize("name", sorted(JOB_EXAMPLES))
def test_examples_of_the_description_are_valid(name: str) -> None:
    JobSpec.model_validate(JOB_EXAMPLES[name]["value"])


@pytest.mark.parametrize("moment", ["0.5", "1700000000", "yesterday", "2026"])
def test_time_that_is_no_date_is_refused(client: TestClient, moment: str) -> None:
    answer = client.get("/v1/jobs", params={"created_after": moment})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "created_after"
    assert "2026-01-31T12:00:00Z" in answer.json()["detail"]


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_time_that_utc_does_not_have_is_refused(client: TestClient, moment: str) -> None:
    answer = client.get("/v1/jobs", params={"created_before": moment})
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "created_before")
    forged = base64.urlsafe_b64encode(f"{moment}|job_0".encode()).decode().rstrip("=")
    answer = client.get("/v1/jobs", params={"cursor": forged})
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "cursor")
