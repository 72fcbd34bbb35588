"""A real server on loopback, with a worker that the tests play."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvicorn
from pydantic import SecretStr

from app.main import create_app
from app.settings import ApiSettings
from models import journal, lifecycle
from models.database import Database
from models.lifecycle import ClaimedJob, Delivery, JobError
from models.settings import Settings
from models.spec import Candidate
from models.store import Store, open_store
from models.tables import Base
from tests.conftest import free_port


@dataclass(frozen=True)
class Service:
    """Where the server is, and what its worker would write to."""

    url: str
    database: Database
    store: Store

    def claim(self, job_id: str) -> ClaimedJob:
        """Take the job, as a worker does."""
        with self.database.transaction() as session:
            claimed = lifecycle.claim_one(session, job_id, "worker-1", 60.0)
        assert claimed is not None
        return claimed

    def tell(self, job: ClaimedJob, message: str) -> None:
        with self.database.transaction() as session:
            journal.add_event(session, job.id, job.attempt, type="dataset.columns", message=message)

    def move(self, job: ClaimedJob, stage: str, step: int, total: int) -> None:
        progress = {"stage": stage, "step": step, "total": total, "fraction": 0.5, "eta_seconds": 90.0}
        with self.database.transaction() as session:
            journal.write_progress(session, job.id, job.attempt, {**progress, "message": ""})

    def try_out(self, job: ClaimedJob, candidate: dict[str, Any]) -> None:
        with self.database.transaction() as session:
            found = Candidate.model_validate(candidate)
            journal.upsert_candidate(session, job.id, job.attempt, found)

    def succeed(self, job: ClaimedJob, result: dict[str, Any], files: dict[str, bytes]) -> None:
        deliveries = []
        for name, content in files.items():
            blob = self.store.put_stream([content])
            deliveries.append(Delivery(name, blob.size, blob.sha256, "application/octet-stream"))
        with self.database.transaction() as session:
            lifecycle.succeed(session, job.id, job.attempt, result=result, artifacts=deliveries, progress={})

    def fail(self, job: ClaimedJob, error: JobError) -> None:
        with self.database.transaction() as session:
            lifecycle.fail(session, job.id, job.attempt, error)


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One server for all tests that leave its door open."""
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running


@contextmanager
def serving(folder: Path) -> Iterator[Service]:
    """The application on a port of loopback, with SQLite and a folder as its store.

    It logs to a file: what commands print in this same process would hold its lines.
    """
    settings = Settings(data_dir=folder, allow_paths=True, secret_key=SecretStr("k" * 40))
    database = Database(settings.database)
    Base.metadata.create_all(database.engine)
    port = free_port()
    application = create_app(settings, ApiSettings(poll_seconds=0.02))
    server = uvicorn.Server(uvicorn.Config(application, port=port, log_level="warning", lifespan="on"))
    listening = threading.Thread(target=server.run, daemon=True)
    with (folder / "api.log").open("w") as log:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
        listening.start()
        try:
            yield Service(f"http://127.0.0.1:{port}", database, open_store(settings.store))
        finally:
            server.should_exit = True
            listening.join(10)
            structlog.reset_defaults()
            database.close()
