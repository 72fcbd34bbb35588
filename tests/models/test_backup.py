"""A backup, tried: what was saved is there again after a restore, on SQLite and Postgres."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from migrations import upgrade
from models import backup, lifecycle
from models.backup import NotRestorable
from models.database import Database
from models.lifecycle import Delivery
from models.settings import Settings
from models.spec import JobSpec
from models.store import blob_key, open_store
from models.tables import Artifact, Event, Job
from tests.models import databases
from tests.models.databases import BACKENDS


@contextmanager
def empty_database(backend: str, folder: Path) -> Iterator[str]:
    """A database of its own, since Postgres' tools save a whole one."""
    if backend == "sqlite":
        folder.mkdir(exist_ok=True)
        yield f"sqlite:///{folder / 'axforge.db'}"
        return
    if not databases._postgres_answers():
        pytest.skip("no Postgres answers")
    if shutil.which("pg_dump") is None:
        pytest.skip("no pg_dump on the PATH")
    name = f"t_{secrets.token_hex(6)}"
    databases._on_postgres(f"CREATE DATABASE {name}")
    try:
        yield databases.POSTGRES.rpartition("/")[0] + f"/{name}"
    finally:
        databases._on_postgres(f"DROP DATABASE {name}")


@pytest.fixture(autouse=True)
def postgres_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian keeps them off the PATH."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin")):
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def settings_at(url: str, folder: Path) -> Settings:
    return Settings.model_validate(
        {"database_url": url, "store_url": (folder / "objects").as_uri(), "data_dir": folder}
    )


def finish_a_job(settings: Settings, spec: JobSpec, content: bytes) -> str:
    upgrade(settings.database)
    database = Database(settings.database)
    blob = open_store(settings.store).put_stream([content])
    with database.transaction() as session:
        job_id = lifecycle.create(session, spec).id
        lifecycle.claim_one(session, job_id, "w", 60)
        files = [Delivery("model.onnx", blob.size, blob.sha256, "application/octet-stream")]
        lifecycle.succeed(session, job_id, 1, result={"a": 1}, artifacts=files, progress={})
    database.close()
    return job_id


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_saved_comes_back(backend: str, tmp_path: Path, spec: JobSpec) -> None:
    with (
        empty_database(backend, tmp_path / "a") as before,
        empty_database(backend, tmp_path / "b") as after,
    ):
        old, new = settings_at(before, tmp_path / "a"), settings_at(after, tmp_path / "b")
        job_id = finish_a_job(old, spec, b"weights")
        assert backup.save(old, tmp_path / "backup") == 1
        assert backup.save(old, tmp_path / "backup") == 0  # the second time, only what is new
        assert backup.restore(new, tmp_path / "backup") == 1
        assert backup.check(new) == []
        upgrade(new.database)  # it is at the newest version already, and can be worked with
        database = Database(new.database)
        with database.transaction() as session:
            job = session.get_one(Job, job_id)
            assert (job.status, job.result, job.attempt) == ("succeeded", {"a": 1}, 1)
            events = session.scalars(select(Event).order_by(Event.id)).all()
            assert [event.type for event in events] == ["job.created", "job.started", "job.succeeded"]
            sha256 = session.scalars(select(Artifact.sha256)).one()
            lifecycle.create(session, spec)  # sequences go on behind what was restored
        database.close()
        assert b"".join(open_store(new.store).open_range(blob_key(sha256))) == b"weights"
        with pytest.raises(NotRestorable, match="empty"):
            backup.restore(new, tmp_path / "backup")


def test_damage_is_told(tmp_path: Path, spec: JobSpec) -> None:
    old, new = (settings_at(f"sqlite:///{tmp_path / name}.db", tmp_path / name) for name in "ab")
    finish_a_job(old, spec, b"weights")
    backup.save(old, tmp_path / "backup")
    saved = next(path for path in (tmp_path / "backup" / "objects").rglob("*") if path.is_file())
    saved.write_bytes(b"others")
    with pytest.raises(NotRestorable, match="not what was saved"):
        backup.restore(new, tmp_path / "backup")
    assert len(backup.check(new)) == 1
