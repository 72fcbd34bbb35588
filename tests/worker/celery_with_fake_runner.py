"""The worker's Celery application, starting the fake runner in the mode that FAKE_RUNNER names."""

import os
import sys
from functools import partial

import worker.tasks
from worker.celery_app import app
from worker.supervisor import Supervisor

worker.tasks.Supervisor = partial(  # type: ignore[misc]
    Supervisor,
    command=lambda job: [
        *(sys.executable, "-m", "tests.worker.fake_runner", os.environ.get("FAKE_RUNNER", "wait")),
        *(job.id, str(job.attempt)),
    ],
)

__all__ = ["app"]
