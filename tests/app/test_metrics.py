"""/metrics: right, bounded, cheap, and only for those who may read it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, update

from app.main import create_app
from app.metrics import repository, stored
from app.settings import ApiSettings
from models import journal, lifecycle, quotas, tally
from models.base import utc_now
from models.database import Database
from models.lifecycle import JobError, LeaseLost
from models.settings import Settings
from models.tables import ComputeUse, Job, Tally
from tests.worker.jobs import wait_until

Samples = dict[tuple[str, ...], float]
READER = ("127.0.0.1", 50000)


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "FRESH_SECONDS", 0.0)


@pytest.fixture
def reader(settings: Settings, database: Database) -> Iterator[TestClient]:
    with TestClient(create_app(settings, ApiSettings(poll_seconds=0.02)), client=READER) as client:
        yield client


def read(client: TestClient) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_the_queue_and_the_leases(
    reader: TestClient, database: Database, add_job: Callable[..., str], start_run: Callable[..., Any]
) -> None:
    silent, talking = start_run(), start_run()
    oldest, later = add_job(), add_job()
    talking.progress(stage="search", memory_bytes=300, device_memory_bytes=70)
    with database.transaction() as session:
        for job_id, moment in ((oldest, -600), (later, 600)):
            at = utc_now() + timedelta(seconds=moment)
            session.execute(update(Job).where(Job.id == job_id).values(available_at=at))
        lost = utc_now() - timedelta(seconds=40)
        session.execute(update(Job).where(Job.id == silent.job_id).values(lease_until=lost))
    samples = read(reader)
    assert samples["axforge_jobs", "queued"] == samples["axforge_jobs", "running"] == 2
    assert samples["axforge_jobs_claimable",] == 1
    assert samples["axforge_jobs_oldest_queued_age_seconds",] == pytest.approx(600, abs=30)
    assert samples["axforge_leases_expired",] == 1
    assert samples["axforge_lease_age_seconds_max",] == pytest.approx(60 + 40, abs=30)
    assert samples["axforge_run_memory_bytes_max", "host"] == 300
    assert samples["axforge_run_memory_bytes_max", "device"] == 70


def test_jobs_of_tenants_without_minutes_are_held_and_not_claimable(
    reader: TestClient, database: Database, add_job: Callable[..., str]
) -> None:
    held = [add_job(tenant="spent"), add_job(tenant="spent")]
    add_job()
    with database.transaction() as session:
        quotas.set_limits(session, "spent", compute_minutes=1)
        session.add(ComputeUse(tenant="spent", day=utc_now().date(), seconds=61))
        long_ago = utc_now() - timedelta(hours=9)
        session.execute(update(Job).where(Job.id.in_(held)).values(available_at=long_ago))
    samples = read(reader)
    assert samples["axforge_jobs", "queued"] == 3
    assert samples["axforge_jobs_claimable",] == 1
    assert samples["axforge_jobs_held",] == 2
    assert samples["axforge_jobs_oldest_queued_age_seconds",] < 60


def test_memory_of_a_gpu_is_told_only_by_runs_that_have_one(
    reader: TestClient, start_run: Callable[..., Any]
) -> None:
    assert not [key for key in read(reader) if key[0] == "axforge_run_memory_bytes_max"]
    start_run().progress(stage="search", memory_bytes=300)
    samples = read(reader)
    assert samples["axforge_run_memory_bytes_max", "host"] == 300
    assert ("axforge_run_memory_bytes_max", "device") not in samples
    start_run().progress(stage="search", memory_bytes=200, device_memory_bytes=70)
    samples = read(reader)
    assert samples["axforge_run_memory_bytes_max", "host"] == 300
    assert samples["axforge_run_memory_bytes_max", "device"] == 70


def test_totals_of_what_runs_did(
    reader: TestClient, database: Database, start_run: Callable[..., Any]
) -> None:
    done, failed, given_back = start_run(), start_run(), start_run()
    for number in range(3):
        done.candidate(number, accepted=number > 0)
    with database.transaction() as session:
        for seconds in (0.5, 20.0, 20.0, 200_000.0):
            journal.finish_stage(session, done.job_id, done.attempt, "search", seconds)
        lifecycle.release(session, given_back.job_id, given_back.attempt, message="stop")
    done.succeed()
    failed.fail(JobError("disk_full", "Full.", "Make room."))
    samples = read(reader)
    assert samples["axforge_jobs_finished_total", "succeeded"] == 1
    assert samples["axforge_jobs_finished_total", "failed"] == 1
    assert samples["axforge_jobs_finished_total", "cancelled"] == 0
    assert samples["axforge_job_failures_total", "disk_full"] == 1
    assert samples["axforge_job_requeues_total", "orderly"] == 1
    assert samples["axforge_candidates_total", "accepted"] == 2
    assert samples["axforge_candidates_total", "refused"] == 1
    buckets = {
        key[1]: value for key, value in samples.items() if key[0].endswith("stage_duration_seconds_bucket")
    }
    assert (buckets["1.0"], buckets["15.0"], buckets["60.0"], buckets["+Inf"]) == (1, 1, 3, 4)
    assert samples["axforge_stage_duration_seconds_sum", "search"] == 200_040.5


def test_a_run_that_lost_its_lease_counts_nothing(
    reader: TestClient, database: Database, start_run: Callable[..., Any]
) -> None:
    run = start_run()
    run.succeed()
    with pytest.raises(LeaseLost):
        run.fail(JobError("disk_full", "Full.", "Make room."))
    with pytest.raises(LeaseLost):
        run.candidate(1)
    samples = read(reader)
    assert samples["axforge_jobs_finished_total", "failed"] == 0
    assert samples["axforge_candidates_total", "accepted"] == 0


def test_a_thousand_paths_add_no_series(reader: TestClient, add_job: Callable[..., str]) -> None:
    def visit(number: int) -> None:
        reader.get(f"/nothing/{number}")
        reader.get(f"/v1/jobs/job_{number}")
        reader.get(f"/v1/jobs/job_{number}/artifacts/a/{number}")
        reader.request(f"METHOD{number}", "/v1/jobs")
        reader.get("/v1/jobs", headers={"X-Request-ID": f"r-{number}"})

    visit(0)
    before = set(read(reader))
    for number in range(1, 250):
        visit(number)
    after = read(reader)
    assert set(after) - before <= {("axforge_http_requests_total", "GET", "/metrics", "200")} | {
        key for key in after if "/metrics" in key
    }
    assert after["axforge_http_requests_total", "GET", "unmatched", "404"] == 250
    assert after["axforge_http_requests_total", "other", "/v1/jobs", "405"] == 250
    assert len(after) < 200


def test_streams_and_requests_under_way_are_seen(reader: TestClient, start_run: Callable[..., Any]) -> None:
    run = start_run()
    stream = {"Accept": "text/event-stream"}
    opened = reader.app.state.metrics.http.streams._value.get  # type: ignore[attr-defined]

    def see() -> None:
        wait_until(lambda: opened() == 1)
        run.succeed()

    worker = threading.Thread(target=see)
    worker.start()
    reader.get(f"/v1/jobs/{run.job_id}/events", headers=stream)
    worker.join()
    samples = read(reader)
    assert samples["axforge_http_event_streams_open",] == 0
    assert samples["axforge_http_requests_in_flight",] == 1  # this one


def test_a_scrape_reads_the_database_once_in_a_while(
    reader: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = reader.app.state.context.database.engine  # type: ignore[attr-defined]
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    read(reader)
    assert sorted(statement.split()[0] for statement in statements) == ["SELECT"] * 4 + ["WITH"]
    monkeypatch.setattr(stored, "FRESH_SECONDS", 60.0)
    statements.clear()
    for _ in range(20):
        read(reader)
    assert statements == []


def test_the_queue_is_counted_in_an_index(database: Database) -> None:
    counted = repository.by_tenant(utc_now()).compile(
        database.engine, compile_kwargs={"render_postcompile": True}
    )
    with database.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {counted}", (0,) * len(counted.params)).all()
    assert "USING INDEX ix_job_queue" in str(plan)


def test_a_lost_database_is_told_and_the_rest_goes_on(reader: TestClient, database: Database) -> None:
    Tally.__table__.drop(database.engine)  # type: ignore[attr-defined]
    samples = read(reader)
    assert samples["axforge_database_up",] == 0
    assert ("axforge_jobs", "queued") not in samples
    assert samples["axforge_http_requests_in_flight",] == 1


def test_a_database_that_hangs_holds_up_no_scrape(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = ApiSettings(probe_seconds=0.1)
    with TestClient(create_app(settings, api), client=READER) as client:
        metrics = client.app.state.metrics  # type: ignore[attr-defined]
        calls: list[float] = []

        def hang() -> None:
            calls.append(time.monotonic())
            time.sleep(1.0)

        monkeypatch.setattr(metrics.stored, "refresh", hang)
        for _ in range(5):
            assert read(client)["axforge_database_up",] == 0
        assert len(calls) == 1  # the others found its place taken


@pytest.mark.parametrize(
    ("host", "networks", "status"),
    [
        ("127.0.0.1", None, 200),
        ("::1", None, 200),
        ("::ffff:127.0.0.1", None, 200),
        ("10.1.2.3", None, 404),
        ("testclient", None, 404),
        ("10.1.2.3", ("10.0.0.0/8",), 200),
        ("127.0.0.1", ("10.0.0.0/8",), 404),
        ("127.0.0.1", (), 404),
    ],
)
def test_who_may_read(
    settings: Settings, database: Database, host: str, networks: tuple[str, ...] | None, status: int
) -> None:
    given = {} if networks is None else {"metrics_from": networks}
    with TestClient(create_app(settings, ApiSettings.model_validate(given)), client=(host, 1)) as client:
        answer = client.get("/metrics")
    assert answer.status_code == status
    if status == 404:
        assert answer.json()["code"] == "not_found"


def test_nothing_of_a_tenant_is_shown(reader: TestClient, add_job: Callable[..., str]) -> None:
    job_id = add_job(tenant="acme-and-sons", name="the-secret-project")
    page = reader.get("/metrics").text
    for told in (job_id, "acme-and-sons", "the-secret-project"):
        assert told not in page


def test_counts_are_rolled_back_with_the_change(database: Database) -> None:
    def fail_late() -> None:
        with database.transaction() as session:
            tally.count(session, "candidates", "accepted")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_late()
    with database.session() as session:
        assert list(tally.read(session)) == []
