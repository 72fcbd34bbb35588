from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from models import journal, lifecycle
from models.base import new_id, utc_now
from models.database import Database
from models.job import DEFAULT_TENANT, Job, JobStatus
from models.lifecycle import ClaimedJob
from models.settings import Settings
from models.store import blob_key, open_store
from models.tables import Artifact, CandidateRow, ComputeUse, Event, Upload, UploadKind
from tests.worker.jobs import create, events, load, wait_until
from worker.celery_app import send_hint
from worker.supervisor import Supervisor

# What is about processes more than about statements need not be seen on every database.
sqlite_only = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


def fake(mode: str) -> Callable[[ClaimedJob], list[str]]:
    return lambda job: [sys.executable, "-m", "tests.worker.fake_runner", mode, job.id, str(job.attempt)]


def supervise(database: Database, settings: Settings, mode: str) -> str | None:
    return Supervisor(database, settings, stopping=lambda: False, command=fake(mode)).run_next()


@contextmanager
def supervising(
    database: Database, settings: Settings, mode: str, stop: threading.Event | None = None
) -> Iterator[None]:
    """Supervise in a thread; at the end, wait until it is through."""
    told = stop or threading.Event()
    supervisor = Supervisor(database, settings, stopping=told.is_set, command=fake(mode))
    thread = threading.Thread(target=supervisor.run_next)
    thread.start()
    try:
        yield
        thread.join(timeout=60)
        assert not thread.is_alive()
    finally:
        told.set()
        thread.join(timeout=60)


def is_at_work(database: Database, job_id: str) -> bool:
    progress = load(database, job_id).progress
    return progress is not None and progress["message"] == "waiting"


def make_available(database: Database) -> None:
    with database.transaction() as session:
        session.execute(update(Job).values(available_at=utc_now() - timedelta(seconds=1)))


def test_a_tenant_without_minutes_waits_for_a_worker(database: Database, settings: Settings) -> None:
    job_id = create(database)
    with database.transaction() as session:
        session.add(ComputeUse(tenant=DEFAULT_TENANT, day=utc_now().date(), seconds=61))
    short = settings.model_copy(update={"quota_compute_minutes": 1.0})
    assert supervise(database, short, "succeed") is None
    assert load(database, job_id).status is JobStatus.QUEUED
    enough = settings.model_copy(update={"quota_compute_minutes": 2.0})
    assert supervise(database, enough, "succeed") == job_id


def test_success_delivers_everything(database: Database, settings: Settings, tmp_path: Path) -> None:
    job_id = create(database)
    assert supervise(database, settings, "succeed") == job_id
    job = load(database, job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert job.progress is not None
    assert job.progress["fraction"] == 1.0
    assert job.result is not None
    assert job.result["verdict"] == "met"
    assert job.result["spec_digest"] == job.spec_digest
    with database.session() as session:
        artifacts = {one.name: one for one in session.scalars(select(Artifact))}
        assert session.scalars(select(CandidateRow.number).order_by(CandidateRow.number)).all() == [0, 1]
    assert set(artifacts) == {"model.onnx", "certificate.json"}
    open_store(settings.store).download(blob_key(artifacts["model.onnx"].sha256), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"weights"
    assert not (settings.data_dir / "work" / job_id).exists()
    assert supervise(database, settings, "succeed") is None


@sqlite_only
def test_the_certificate_names_the_spec_that_the_user_wrote(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    store = open_store(settings.store)
    blob = store.put_stream([b"text,label"])
    with database.transaction() as session:
        upload = Upload(
            id=new_id("upl"),
            kind=UploadKind.DATASET,
            filename="a.csv",
            size=blob.size,
            sha256=blob.sha256,
            media_type="text/csv",
        )
        session.add(upload)
    job_id = create(database, dataset={"upload": upload.id})
    supervise(database, settings, "succeed")
    job = load(database, job_id)
    assert job.result is not None
    with database.session() as session:
        row = session.scalars(select(Artifact).where(Artifact.name == "certificate.json")).one()
    store.download(blob_key(row.sha256), tmp_path / "certificate.json")
    delivered = json.loads((tmp_path / "certificate.json").read_text())
    assert delivered["spec_digest"] == job.result["spec_digest"] == job.spec_digest


@sqlite_only
def test_a_typed_error_ends_the_job(database: Database, settings: Settings) -> None:
    job_id = create(database)
    supervise(database, settings, "refuse")
    job = load(database, job_id)
    assert job.status is JobStatus.FAILED
    assert job.error == {
        "code": "dataset_columns",
        "detail": "Two columns hold text.",
        "remedy": "Name one.",
        "pointer": "/dataset/columns/text",
        "retryable": False,
    }


@sqlite_only
def test_a_bug_ends_the_job_and_tells_no_secret(database: Database, settings: Settings) -> None:
    job_id = create(database)
    supervise(database, settings, "stumble")
    error = load(database, job_id).error
    assert error is not None
    assert error["code"] == "internal_error"
    assert str(settings.data_dir) not in str(error)
    assert "ZeroDivision" not in str(error)


@sqlite_only
def test_a_crash_is_tried_again_and_then_told(database: Database, settings: Settings) -> None:
    job_id = create(database)
    for _ in range(settings.max_attempts - 1):
        supervise(database, settings, "crash")
        assert load(database, job_id).status is JobStatus.QUEUED
        make_available(database)
    supervise(database, settings, "crash")
    error = load(database, job_id).error
    assert error is not None
    assert (error["code"], error["retryable"]) == ("worker_crashed", True)


@sqlite_only
def test_a_memory_kill_is_tried_once_more(database: Database, settings: Settings) -> None:
    job_id = create(database)
    supervise(database, settings, "run_out_of_memory")
    assert load(database, job_id).status is JobStatus.QUEUED
    make_available(database)
    supervise(database, settings, "run_out_of_memory")
    error = load(database, job_id).error
    assert error is not None
    assert error["code"] == "out_of_memory"


@pytest.mark.parametrize(("mode", "grace"), [("wait", 20.0), ("never_check", 0.3)])
def test_cancel_stops_a_run(database: Database, settings: Settings, mode: str, grace: float) -> None:
    settings = settings.model_copy(update={"stop_grace_seconds": grace})
    job_id = create(database)
    with supervising(database, settings, mode):
        wait_until(lambda: is_at_work(database, job_id))
        with database.transaction() as session:
            lifecycle.request_cancel(session, job_id)
    assert load(database, job_id).status is JobStatus.CANCELLED
    assert events(database, job_id)[-2:] == ["job.cancel_requested", "job.cancelled"]


@pytest.mark.parametrize(("mode", "grace"), [("wait", 20.0), ("never_check", 0.3)])
def test_shutdown_gives_the_job_back_and_another_machine_goes_on(
    database: Database, settings: Settings, tmp_path: Path, mode: str, grace: float
) -> None:
    settings = settings.model_copy(update={"stop_grace_seconds": grace})
    job_id = create(database)
    stop = threading.Event()
    with supervising(database, settings, mode, stop):
        wait_until(lambda: is_at_work(database, job_id))
        stop.set()
    job = load(database, job_id)
    assert (job.status, job.losses, job.worker) == (JobStatus.QUEUED, 0, None)
    made = (settings.data_dir / "work" / job_id / "run-1" / "prepare" / "done.json").read_text()

    supervise(database, settings.model_copy(update={"data_dir": tmp_path / "elsewhere"}), "succeed")
    assert load(database, job_id).status is JobStatus.SUCCEEDED
    with database.session() as session:
        told = {one.type: one for one in session.scalars(select(Event))}
    assert told["run.restored"].data == {"files": 1}
    assert told["prepared"].data == {"text": made}


def test_a_run_whose_lease_is_lost_stops_and_writes_nothing(database: Database, settings: Settings) -> None:
    job_id = create(database)
    with supervising(database, settings, "wait"):
        wait_until(lambda: is_at_work(database, job_id))
        with database.transaction() as session:
            session.execute(update(Job).values(lease_until=utc_now() - timedelta(seconds=60)))
            lifecycle.requeue_expired(session, 3)
            session.execute(update(Job).values(available_at=utc_now() - timedelta(seconds=1)))
            assert lifecycle.claim_one(session, job_id, "another", 60) is not None
    job = load(database, job_id)
    assert (job.status, job.attempt, job.worker) == (JobStatus.RUNNING, 2, "another")
    assert events(database, job_id)[-1] == "job.started"


@sqlite_only
def test_a_killed_supervisor_leaves_no_orphan(database: Database, settings: Settings) -> None:
    job_id = create(database)
    script = (
        "from tests.worker.test_supervisor import *;"
        "s = Settings(); Supervisor(Database(s.database), s, lambda: False, fake('never_check')).run_next()"
    )
    environment = os.environ | settings.environment()
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        wait_until(lambda: is_at_work(database, job_id))
        folder = settings.data_dir / "work" / job_id / "run-1"
        runner = int((folder / "prepare" / "done.json").read_text().split(":")[1].strip(" }"))
        os.kill(runner, 0)  # it is there
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not is_alive(runner))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_stopping_worker_claims_nothing(database: Database, settings: Settings) -> None:
    job_id = create(database)
    assert Supervisor(database, settings, stopping=lambda: True).run_next() is None
    assert load(database, job_id).attempt == 0


@sqlite_only
def test_heartbeats_extend_the_lease(database: Database, settings: Settings) -> None:
    job_id = create(database)
    stop = threading.Event()
    with supervising(database, settings, "wait", stop):
        wait_until(lambda: is_at_work(database, job_id))
        first = load(database, job_id).lease_until
        assert first is not None
        wait_until(lambda: (load(database, job_id).lease_until or first) > first)
        stop.set()


@sqlite_only
def test_the_celery_worker_gives_back_its_job_on_sigterm(database: Database, settings: Settings) -> None:
    queue = (settings.data_dir / "queue").as_uri().replace("file:", "filesystem:", 1)
    settings = settings.model_copy(update={"broker_url": type(settings.database_url)(queue)})
    job_id = create(database)
    command = [sys.executable, "-m", "celery", "--app", "tests.worker.celery_with_fake_runner", "worker"]
    options = ["--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    process = subprocess.Popen(command + options, env=os.environ | settings.environment())
    try:
        assert send_hint(queue, "cpu")
        wait_until(lambda: is_at_work(database, job_id), 60)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
    job = load(database, job_id)
    assert (job.status, job.losses) == (JobStatus.QUEUED, 0)
    with database.session() as session:
        assert [one.name for one in journal.checkpoints(session, job_id)] == ["prepare/done.json"]
