"""The Pareto front of candidates, and the export of one that the job did not deliver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.candidates.front import on_front
from models import exporting, journal, lifecycle, retention
from models.checkpoint import Checkpoint
from models.database import Database
from models.job import JobStatus
from models.retention import Keeping
from models.settings import Settings
from models.tables import AuditEvent, Job
from tests.app.conftest import bearer

MEASURED = {"latency_source": "measured"}
KEEPING = Keeping(upload_days=30, event_days=90, idempotency_hours=24, audit_days=400, state_days=7)


@pytest.fixture
def searched(start_run: Callable[..., Any]) -> Callable[..., Any]:
    """A job that has succeeded: candidate 0 of the search, 1 and 2 trained; with a state unless told."""

    def make(*, state: bool = True, done: bool = True, **more: Any) -> Any:
        run = start_run(**more)
        run.candidate(0)
        for number in (1, 2):
            run.candidate(number, stage="recover", latency_ms=1.0, **MEASURED)
        if state:
            with run.database.transaction() as session:
                journal.save_checkpoint(
                    session, run.job_id, run.attempt, "recover/climb.json", sha256="0" * 64, size=1
                )
        if done:
            run.succeed(**{"model.onnx": b"weights"})
        return run

    return make


def test_the_front_is_what_no_measured_candidate_beats(
    client: TestClient, start_run: Callable[..., Any]
) -> None:
    run = start_run()
    accurate = {"metric": 0.9, "size_bytes": 100, "latency_ms": 4.0}
    run.candidate(0, stage="baseline", **accurate, **MEASURED)
    run.candidate(1, stage="search", metric=0.99, size_bytes=1, latency_ms=0.1, latency_source="predicted")
    run.candidate(2, stage="recover", metric=0.8, size_bytes=50, latency_ms=2.0, **MEASURED)
    run.candidate(3, stage="recover", metric=0.8, size_bytes=60, latency_ms=2.0, **MEASURED)
    run.candidate(4, stage="recover", metric=0.7, size_bytes=90, latency_ms=1.0, **MEASURED)
    run.candidate(5, stage="recover", **accurate, **MEASURED)
    url = f"/v1/jobs/{run.job_id}/candidates"
    marked = {each["number"]: each["on_front"] for each in client.get(url).json()["data"]}
    assert marked == {0: True, 1: False, 2: True, 3: False, 4: True, 5: True}
    only = client.get(f"{url}?front=true&after=0&limit=2").json()
    assert ([each["number"] for each in only["data"]], only["has_more"]) == ([2, 4], True)
    assert client.get(f"{url}/3").json()["on_front"] is False


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 1), ("perplexity", 0)])
def test_the_front_knows_of_which_metrics_less_is_better(metric: str, best: int) -> None:
    alike = {"size_bytes": 50, "latency_ms": 2.0, **MEASURED}
    told = [(0, {"metric": 12.0, **alike}), (1, {"metric": 30.0, **alike})]
    assert on_front(told, metric) == {best}


def test_an_export_is_a_queued_job_of_the_same_spec(
    client: TestClient, database: Database, searched: Callable[..., Any]
) -> None:
    run = searched()
    answer = client.post(f"/v1/jobs/{run.job_id}/candidates/1/export")
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{made['id']}"
    source = client.get(f"/v1/jobs/{run.job_id}").json()
    assert (made["status"], made["spec_digest"]) == ("queued", source["spec_digest"])
    assert made["name"].endswith(" candidate 1")
    shown = client.get(f"/v1/jobs/{run.job_id}/candidates").json()["data"]
    assert [each["export_job_id"] for each in shown] == [None, made["id"], None]
    with database.transaction() as session:
        claimed = lifecycle.claim(session, "w", 60)
        assert claimed is not None
        assert exporting.origin(session, claimed.id) == exporting.Origin(run.job_id, 1)
        assert exporting.origin(session, run.job_id) is None
        actions = [event.action for event in session.query(AuditEvent)]
    assert "candidate.exported" in actions


def test_asking_again_gives_the_same_job_until_that_has_failed(
    client: TestClient, database: Database, searched: Callable[..., Any]
) -> None:
    url = f"/v1/jobs/{searched().job_id}/candidates/1/export"
    first, second = (client.post(url).json()["id"] for _ in range(2))
    assert first == second
    replayed = [client.post(url, headers={"Idempotency-Key": "k"}) for _ in range(2)][1]
    assert replayed.headers["Idempotency-Replayed"] == "true"
    with database.transaction() as session:
        lifecycle.request_cancel(session, first)
    third = client.post(url).json()["id"]
    assert third != first
    assert client.post(url.replace("/1/", "/2/")).json()["id"] not in (first, third)


@pytest.mark.parametrize(
    ("number", "made", "status", "code"),
    [
        (9, {}, 404, "not_found"),
        (0, {}, 422, "candidate_not_trained"),
        (1, {"done": False}, 409, "job_not_succeeded"),
        (1, {"state": False}, 410, "gone"),
    ],
)
def test_what_cannot_be_exported_says_why(
    client: TestClient,
    searched: Callable[..., Any],
    number: int,
    made: dict[str, Any],
    status: int,
    code: str,
) -> None:
    answer = client.post(f"/v1/jobs/{searched(**made).job_id}/candidates/{number}/export")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["remedy"]


def test_exports_count_as_queued_jobs(application: Callable[..., Any], searched: Callable[..., Any]) -> None:
    run = searched()
    with TestClient(application(quota_queued_jobs=1)) as client:
        url = f"/v1/jobs/{run.job_id}/candidates/1/export"
        assert client.post(url).status_code == 202
        assert client.post(url).status_code == 202  # the same job
        assert client.post(url.replace("/1/", "/2/")).json()["code"] == "queue_quota_exceeded"


def test_the_state_stays_for_its_time_and_for_what_goes_on_from_it(
    database: Database, client: TestClient, searched: Callable[..., Any]
) -> None:
    run, unwanted = searched(), searched()
    child = client.post(f"/v1/jobs/{run.job_id}/candidates/1/export").json()["id"]

    def states(keeping: Keeping) -> set[str]:
        with database.transaction() as session:
            for job_id in (run.job_id, unwanted.job_id):
                job = session.get_one(Job, job_id)
                job.sweep_at = job.finished_at
            session.flush()
            retention.sweep_jobs(session, keeping)
            return set(session.scalars(session.query(Checkpoint.job_id).statement))

    over = Keeping(upload_days=30, event_days=90, idempotency_hours=24, audit_days=400, state_days=0)
    assert states(KEEPING) == {run.job_id, unwanted.job_id}
    assert states(over) == {run.job_id}
    with database.transaction() as session:
        lifecycle.request_cancel(session, child)
    assert states(over) == set()


def test_a_job_is_not_deleted_under_an_export(
    client: TestClient, database: Database, searched: Callable[..., Any]
) -> None:
    run = searched()
    child = client.post(f"/v1/jobs/{run.job_id}/candidates/1/export").json()["id"]
    assert client.delete(f"/v1/jobs/{run.job_id}").json()["code"] == "job_not_done"
    client.post(f"/v1/jobs/{child}/cancel")
    assert client.delete(f"/v1/jobs/{run.job_id}").status_code == 204
    assert client.get(f"/v1/jobs/{child}").json()["status"] == JobStatus.CANCELLED


def test_exports_are_of_the_tenant_that_has_the_job(
    client: TestClient, make_key: Callable[..., Any], searched: Callable[..., Any], settings: Settings
) -> None:
    run = searched(tenant="a")
    url = f"/v1/jobs/{run.job_id}/candidates/1/export"
    assert client.post(url, headers=bearer(make_key(tenant="b"))).status_code == 404
    made = client.post(url, headers=bearer(make_key(tenant="a")))
    assert made.status_code == 202
    assert (
        client.get(f"/v1/jobs/{made.json()['id']}", headers=bearer(make_key(tenant="b"))).status_code == 404
    )
