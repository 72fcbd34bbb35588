"""The worker's Celery application with the scripted runner, and with the clock that the test says."""

import sys
from functools import partial

import worker.tasks
from tests.faults.clock import shift
from worker.celery_app import app
from worker.supervisor import Supervisor

shift()
worker.tasks.Supervisor = partial(  # type: ignore[misc]
    Supervisor,
    command=lambda job: [sys.executable, "-m", "tests.faults.scripted", job.id, str(job.attempt)],
)

__all__ = ["app"]
