"""What goes by age goes in its time, and nothing that is needed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from models import blobs, deadlines, journal, lifecycle, retention
from models.base import utc_now
from models.database import Database
from models.job import Job, JobStatus
from models.lifecycle import Delivery
from models.retention import Keeping
from models.spec import JobSpec
from models.store import Blob
from models.tables import Artifact, AuditEvent, Checkpoint, Event, Garbage, JobUpload, Upload, UploadKind

KEEPING = Keeping(upload_days=30, event_days=90, idempotency_hours=24, audit_days=400)
FILE = Delivery("model.onnx", 3, "0" * 64, "application/octet-stream")


def add_upload(database: Database, sha256: str = "1" * 64) -> str:
    with database.transaction() as session:
        blobs.attach(session, Blob(sha256, 3))
        upload = Upload(
            kind=UploadKind.DATASET,
            filename="d.csv",
            size=3,
            sha256=sha256,
            media_type="text/csv",
            expires_at=utc_now() - timedelta(days=1),
        )
        session.add(upload)
        session.flush()
        return upload.id


def naming(spec: JobSpec, upload_id: str) -> JobSpec:
    dataset = spec.dataset.model_copy(update={"hub": None, "upload": upload_id})
    return spec.model_copy(update={"dataset": dataset})


def start(database: Database, spec: JobSpec) -> str:
    with database.transaction() as session:
        job_id = lifecycle.create(session, spec).id
        assert lifecycle.claim_one(session, job_id, "w", 60) is not None
        return job_id


def succeed(database: Database, job_id: str, keep_days: float | None = None) -> None:
    with database.transaction() as session:
        lifecycle.succeed(session, job_id, 1, result={}, artifacts=[FILE], progress={}, keep_days=keep_days)


def collect(database: Database) -> list[str]:
    """One round on the database. Returns the keys that became garbage."""
    with database.transaction() as session:
        retention.sweep_jobs(session, KEEPING)
        retention.expire_uploads(session, KEEPING)
        blobs.give_up(session, 100)
    with database.transaction() as session:
        return sorted(session.scalars(select(Garbage.key)))


def age(database: Database, job_id: str, **days: float) -> None:
    """Let times of an ended job be so many days ago, and a look be due."""
    times = {name: utc_now() - timedelta(days=ago) for name, ago in days.items()}
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(sweep_at=utc_now(), **times))


def test_checkpoints_go_with_the_job_and_files_stay_for_ever(database: Database, spec: JobSpec) -> None:
    ended, running = start(database, spec), start(database, spec)
    for job_id in (ended, running):
        with database.transaction() as session:
            journal.save_checkpoint(session, job_id, 1, "a", sha256="2" * 64, size=1)
    succeed(database, ended)
    assert collect(database) == [f"checkpoint/{ended}/"]
    age(database, ended, finished_at=3000)
    assert collect(database) == [f"checkpoint/{ended}/"]
    with database.session() as session:
        assert session.scalars(select(Checkpoint.job_id)).all() == [running]
        assert session.scalars(select(Artifact.job_id)).all() == [ended]
        assert session.scalars(select(Event.job_id)).first() == running  # the old job's are gone
        assert session.get_one(Job, ended).sweep_at is None


def test_events_are_kept_for_their_days(database: Database, spec: JobSpec) -> None:
    job_id = start(database, spec)
    succeed(database, job_id)
    collect(database)
    with database.session() as session:
        assert session.scalars(select(Event.type)).first() == "job.created"
        due = session.get_one(Job, job_id).sweep_at
    assert due is not None
    assert timedelta(days=89) < due - utc_now() < timedelta(days=91)


def test_files_expire_but_not_bytes_that_another_job_has(database: Database, spec: JobSpec) -> None:
    short, long = start(database, spec), start(database, spec)
    succeed(database, short, keep_days=7)
    succeed(database, long)
    collect(database)
    with database.session() as session:
        assert session.get_one(Job, long).expires_at is None
        assert len(session.scalars(select(Artifact)).all()) == 2
    age(database, short, expires_at=0)
    assert not any(key.startswith("sha256/") for key in collect(database))
    with database.session() as session:
        assert session.scalars(select(Artifact.job_id)).all() == [long]
    with database.transaction() as session:
        job = session.scalars(select(Job).where(Job.id == long)).one()
        retention.remove_job(session, job, 30)
    assert f"sha256/{FILE.sha256}" in collect(database)


def test_an_upload_stays_while_a_job_needs_it_and_some_days_longer(database: Database, spec: JobSpec) -> None:
    used, idle = add_upload(database), add_upload(database, "3" * 64)
    named = naming(spec, used)
    job_id = start(database, named)
    assert collect(database) == [f"sha256/{'3' * 64}"]
    with database.session() as session:
        assert session.get(Upload, idle) is None
        assert retention.job_that_needs(session, used) == job_id
    with database.transaction() as session:
        session.execute(update(Upload).values(expires_at=utc_now() - timedelta(days=1)))
        lifecycle.cancel_run(session, job_id, 1)
    collect(database)
    with database.session() as session:
        kept = session.get_one(Upload, used)
        assert kept.expires_at is not None
        assert kept.expires_at > utc_now() + timedelta(days=29)
        assert session.scalars(select(JobUpload)).all() == []
        assert retention.job_that_needs(session, used) is None


def test_an_upload_of_another_tenant_is_not_kept(database: Database, spec: JobSpec) -> None:
    upload = add_upload(database)
    named = naming(spec, upload)
    with database.transaction() as session:
        lifecycle.create(session, named, tenant="other")
        assert session.scalars(select(JobUpload)).all() == []


@pytest.mark.parametrize(("days", "left"), [(400, 1), (0, 8)])
def test_audit_events_are_kept_for_their_days(database: Database, days: float, left: int) -> None:
    with database.transaction() as session:
        for age in [500] * 7 + [399]:
            session.add(AuditEvent(action="job.created", at=utc_now() - timedelta(days=age)))
    keeping = replace(KEEPING, audit_days=days)
    batches = []
    for _ in range(4):
        with database.transaction() as session:
            batches.append(retention.forget_audit_events(session, keeping, limit=3))
    assert batches == ([3, 3, 1, 0] if days else [0, 0, 0, 0])
    with database.session() as session:
        assert len(session.scalars(select(AuditEvent.id)).all()) == left


def test_a_job_that_never_began_fails_in_the_queue(database: Database, spec: JobSpec) -> None:
    with database.transaction() as session:
        waiting, tried, young = (lifecycle.create(session, spec).id for _ in range(3))
        lifecycle.claim_one(session, tried, "w", 60)
        lifecycle.release(session, tried, 1, message="stop")
        old = utc_now() - timedelta(hours=3)
        session.execute(update(Job).where(Job.id.in_([waiting, tried])).values(created_at=old))
    with database.transaction() as session:
        assert deadlines.expire_queued(session, 2.0) == [waiting]
        assert deadlines.expire_queued(session, 2.0) == []
    with database.session() as session:
        job = session.get_one(Job, waiting)
        assert job.error is not None
        assert (job.status, job.error["code"]) == (JobStatus.FAILED, "queue_expired")
        assert job.finished_at is not None
        assert session.get_one(Job, young).status is JobStatus.QUEUED


@pytest.mark.parametrize(("minutes", "over"), [(150, False), (250, True)])
def test_a_run_far_over_its_budget_is_given_up(
    database: Database, spec: JobSpec, minutes: float, over: bool
) -> None:
    job_id = start(database, spec)  # budget.max_minutes is 60
    with database.transaction() as session:
        session.execute(update(Job).values(claimed_at=utc_now() - timedelta(minutes=minutes)))
    with database.transaction() as session:
        stopped = deadlines.stop_overdue(session, factor=3.0, extra_minutes=30.0)
    assert stopped == ([job_id] if over else [])
    with database.transaction() as session:
        assert lifecycle.heartbeat(session, job_id, 1, 60).held is not over
        error = session.get_one(Job, job_id).error
    assert (error or {}).get("code") == ("max_runtime_exceeded" if over else None)
