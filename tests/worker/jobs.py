"""What the tests of the worker share: making jobs, looking at them, waiting for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import select

from models import lifecycle
from models.database import Database
from models.job import Job
from models.spec import JobSpec
from models.tables import Event

SPEC: dict[str, Any] = {"base_model": {"path": "/some/model"}, "dataset": {"path": "/some/data"}}


def create(database: Database, **changes: Any) -> str:
    with database.transaction() as session:
        return lifecycle.create(session, JobSpec.model_validate(SPEC | changes)).id


def load(database: Database, job_id: str) -> Job:
    with database.session() as session:
        return session.get_one(Job, job_id)


def events(database: Database, job_id: str) -> list[str]:
    with database.session() as session:
        return list(session.scalars(select(Event.type).where(Event.job_id == job_id).order_by(Event.id)))


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Poll until it holds; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
