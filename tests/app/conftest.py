"""A served application on SQLite and a folder, and jobs put through the queue's own statements."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.caller import Caller
from app.keys import service
from app.keys.schemas import CreatedApiKey, NewApiKey
from app.main import create_app
from app.settings import ApiSettings
from models import journal, lifecycle
from models.api_key import Scope
from models.database import Database
from models.lifecycle import Delivery
from models.settings import Settings
from models.spec import Candidate, CandidateMeasurements, JobSpec, PruneHeads, Recipe
from models.store import Store, open_store
from tests.models.databases import create_tables

UPLOAD_LIMIT = 200_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, upload_max_bytes=UPLOAD_LIMIT)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database)
    create_tables(database)
    yield database
    database.close()


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.store)


@pytest.fixture
def client(settings: Settings, database: Database) -> Iterator[TestClient]:
    with TestClient(create_app(settings, ApiSettings(poll_seconds=0.02))) as client:
        yield client


@pytest.fixture
def application(settings: Settings, database: Database) -> Callable[..., FastAPI]:
    """The application with other settings."""

    def make(api: ApiSettings | None = None, **changes: Any) -> FastAPI:
        return create_app(settings.model_copy(update=changes), api or ApiSettings())

    return make


@pytest.fixture
def make_key(database: Database) -> Callable[..., CreatedApiKey]:
    """Stores a key as the operator does, and gives it with its secret."""

    def make(*scopes: Scope, tenant: str = "default", **more: Any) -> CreatedApiKey:
        wanted = NewApiKey(name="test", scopes=list(scopes or Scope), **more)
        with database.transaction() as session:
            return service.create(session, Caller(tenant, None, frozenset(Scope)), wanted)

    return make


def bearer(key: CreatedApiKey) -> dict[str, str]:
    """The header of who has the key."""
    return {"Authorization": f"Bearer {key.secret}"}


@pytest.fixture
def spec() -> dict[str, Any]:
    return {"base_model": {"hub": "a/b"}, "dataset": {"hub": "c/d"}, "metadata": {"team": "search"}}


@dataclass(frozen=True)
class Run:
    """A job that a worker holds, moved on by the tests as the worker would."""

    database: Database
    store: Store
    job_id: str
    attempt: int

    def progress(self, **progress: Any) -> None:
        with self.database.transaction() as session:
            journal.write_progress(session, self.job_id, self.attempt, progress)

    def event(self, message: str) -> None:
        with self.database.transaction() as session:
            journal.add_event(session, self.job_id, self.attempt, type="columns.guessed", message=message)

    def candidate(
        self, number: int, *, accepted: bool = True, stage: Any = "search", **measured: Any
    ) -> None:
        measurements = {"metric": 0.9, "parameters": 10, "macs": 20, "size_bytes": 40} | measured
        candidate = Candidate(
            number=number,
            stage=stage,
            recipe=Recipe(steps=(PruneHeads(layer=0, heads=(number,)),)),
            measurements=CandidateMeasurements.model_validate(measurements),
            accepted=accepted,
            reason="It costs little.",
        )
        with self.database.transaction() as session:
            journal.upsert_candidate(session, self.job_id, self.attempt, candidate)

    def succeed(self, result: dict[str, Any] | None = None, **files: bytes) -> None:
        deliveries = [self._stored(name, content) for name, content in files.items()]
        with self.database.transaction() as session:
            lifecycle.succeed(
                session, self.job_id, self.attempt, result=result or {}, artifacts=deliveries, progress={}
            )

    def fail(self, error: lifecycle.JobError) -> None:
        with self.database.transaction() as session:
            lifecycle.fail(session, self.job_id, self.attempt, error)

    def _stored(self, name: str, content: bytes) -> Delivery:
        blob = self.store.put_stream([content])
        assert blob.sha256 == hashlib.sha256(content).hexdigest()
        return Delivery(name, blob.size, blob.sha256, "application/octet-stream")


@pytest.fixture
def add_job(database: Database, spec: dict[str, Any]) -> Callable[..., str]:
    """Stores a queued job and gives its id."""

    def add(**changes: Any) -> str:
        tenant = changes.pop("tenant", "default")
        with database.transaction() as session:
            return lifecycle.create(session, JobSpec.model_validate({**spec, **changes}), tenant=tenant).id

    return add


@pytest.fixture
def start_run(database: Database, store: Store, add_job: Callable[..., str]) -> Callable[..., Run]:
    """Stores a job and takes it as a worker does."""

    def start(**changes: Any) -> Run:
        job_id = add_job(**changes)
        with database.transaction() as session:
            claimed = lifecycle.claim_one(session, job_id, "worker-1", 60.0)
        assert claimed is not None
        return Run(database, store, claimed.id, claimed.attempt)

    return start
