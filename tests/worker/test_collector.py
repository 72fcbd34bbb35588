"""The collector with a store: what is removed, what stays, and that looking removes nothing."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from typer.testing import CliRunner

from axforge.cli.main import app
from models import blobs, journal, lifecycle, usage
from models.base import utc_now
from models.database import Database
from models.job import DEFAULT_TENANT, Job
from models.lifecycle import Delivery
from models.settings import Settings
from models.store import Store, StoreError, open_store
from models.tables import AuditEvent, Garbage, StoredUse
from tests.worker.jobs import create
from worker import collector
from worker.checkpoints import checkpoint_folder
from worker.workfolder import work_folder


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.store, spool=settings.data_dir / "spool")


def finished(database: Database, store: Store, tmp_path: Path, content: bytes) -> str:
    """A job that delivered one file and left a checkpoint."""
    job_id = create(database)
    note = tmp_path / "note"
    note.write_bytes(b"kept for later")
    saved = store.put_file(note, folder=checkpoint_folder(job_id))
    blob = store.put_stream([content], reserve=blobs.reserver(database, 24))
    with database.transaction() as session:
        lifecycle.claim_one(session, job_id, "w", 60)
        journal.save_checkpoint(session, job_id, 1, "note", sha256=saved.sha256, size=saved.size)
        file = Delivery("model.onnx", blob.size, blob.sha256, "application/octet-stream", blob.generation)
        lifecycle.succeed(session, job_id, 1, result={}, artifacts=[file], progress={}, keep_days=1)
    return job_id


def expire(database: Database, job_id: str) -> None:
    past = utc_now() - timedelta(days=2)
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(expires_at=past, sweep_at=past))


def test_shared_bytes_go_with_the_last_job(
    database: Database, store: Store, settings: Settings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"state_days": 0.0})
    first, second = (finished(database, store, tmp_path, b"model") for _ in range(2))
    [key] = store.list("sha256")
    assert collector.round(database, store, settings) == {"jobs": 2, "keys": 2}
    assert list(store.list("")) == [key]
    expire(database, first)
    collector.round(database, store, settings)
    assert list(store.list("")) == [key]
    expire(database, second)
    collector.collect(database, store, settings)
    assert list(store.list("")) == []
    assert collector.collect(database, store, settings) == {}
    again = finished(database, store, tmp_path, b"model")
    assert list(store.list("sha256")) == [f"{key}.1"]
    assert again != second


def test_a_preview_tells_and_removes_nothing(
    database: Database, store: Store, settings: Settings, tmp_path: Path
) -> None:
    expire(database, finished(database, store, tmp_path, b"model"))
    stray = store.put_stream([b"nobody's"])
    before = sorted(store.list(""))
    told = collector.preview(database, store, settings)
    assert told["jobs"] == 1
    assert told["blobs"] == 1
    assert told["strays"] == 1
    assert collector.preview(database, store, settings) == told
    assert sorted(store.list("")) == before
    assert stray.key in before
    done = collector.collect(database, store, settings)
    assert {name: done[name] for name in ("jobs", "blobs", "strays")} == dict.fromkeys(
        ("jobs", "blobs", "strays"), 1
    )
    assert list(store.list("")) == []


def test_audit_events_go_by_the_setting(database: Database, store: Store, settings: Settings) -> None:
    with database.transaction() as session:
        session.add(AuditEvent(action="job.created", at=utc_now() - timedelta(days=401)))
        session.add(AuditEvent(action="job.created", at=utc_now() - timedelta(days=399)))
    forever = settings.model_copy(update={"audit_days": 0.0})
    assert collector.collect(database, store, forever) == {}
    assert collector.preview(database, store, settings) == {"audit_events": 1}
    assert collector.round(database, store, settings) == {"audit_events": 1}
    assert collector.collect(database, store, settings) == {}


def test_wrong_counters_of_stored_bytes_are_told_and_set_right(
    database: Database, store: Store, settings: Settings, tmp_path: Path
) -> None:
    finished(database, store, tmp_path, b"model")
    collector.collect(database, store, settings)
    with database.transaction() as session:
        session.execute(update(StoredUse).values(bytes=3))
    assert collector.preview(database, store, settings) == {"stored_bytes_recounted": 1}
    assert collector.collect(database, store, settings) == {"stored_bytes_recounted": 1}
    assert collector.collect(database, store, settings) == {}
    with database.session() as session:
        assert usage.stored_bytes(session, DEFAULT_TENANT) == len(b"model")


def test_a_delete_that_fails_is_tried_again(
    database: Database,
    store: Store,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expire(database, finished(database, store, tmp_path, b"model"))

    def refuse(key: str) -> None:
        raise StoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "delete", refuse)
        assert "keys" not in collector.round(database, store, settings)
    assert len(list(store.list(""))) == 2
    assert collector.round(database, store, settings) == {}  # not before some minutes have passed
    with database.transaction() as session:
        session.execute(update(Garbage).values(due_at=utc_now()))
    collector.round(database, store, settings)
    assert list(store.list("")) == []
    with database.session() as session:
        assert session.scalars(select(Garbage)).all() == []


def test_what_killed_processes_left_goes_once_it_is_old(
    database: Database, store: Store, settings: Settings, tmp_path: Path
) -> None:
    left = [
        settings.data_dir / "spool" / "incoming-abc",
        tmp_path / "objects" / "sha256" / ("a" * 64 + "#1"),
    ]
    young = [path.with_name(path.name + "2") for path in left]
    other = work_folder(settings.data_dir, "job_deleted") / "run"
    other.mkdir(parents=True)
    for path in left + young:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    for path in left:
        os.utime(path, (time.time() - 3e5, time.time() - 3e5))
    assert collector.collect(database, store, settings) == {"partial_writes": 2, "work_folders": 1}
    assert [path.exists() for path in left + young] == [False, False, True, True]
    assert not other.exists()


def test_the_command_says_what_it_did(
    database: Database, store: Store, settings: Settings, tmp_path: Path
) -> None:
    expire(database, finished(database, store, tmp_path, b"model"))
    environment = settings.environment()
    run = CliRunner().invoke
    assert "blobs: 1 would go" in run(app, ["gc", "--dry-run"], env=environment).output
    assert len(list(store.list(""))) == 2
    assert "blobs: 1 removed" in run(app, ["gc"], env=environment).output
    assert list(store.list("")) == []
    assert "nothing would go" in run(app, ["gc", "--dry-run"], env=environment).output
