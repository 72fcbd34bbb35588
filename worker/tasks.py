"""The task behind a hint: supervise the job that is next. Thin on purpose, and free of torch."""

from __future__ import annotations

import mmap
import os
import signal
import threading
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutting_down

from models import telemetry
from models.database import Database
from models.settings import Settings
from worker import alive
from worker.celery_app import TASK, app
from worker.leash import signal_on_parent_death
from worker.supervisor import Supervisor

# One byte shared with the pool's processes: a warm shutdown of Celery waits for a running task
# without telling it, and a byte can be written from a signal handler without a lock.
_stop_flag = mmap.mmap(-1, 1)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _tell_the_pool(**_: Any) -> None:
    _stop_flag[0] = 1


class _Alive(bootsteps.StartStopStep):  # type: ignore[misc]
    """Signs of life from the loop that takes hints; a run goes on in the pool meanwhile."""

    requires = ("celery.worker.components:Timer",)

    def start(self, parent: Any) -> None:
        alive.touch()
        parent.timer.call_repeatedly(alive.TICK_SECONDS, alive.touch)


app.steps["worker"].add(_Alive)


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def run_next_job() -> None:
    """Claim the next job and see it through. Without one the hint was superfluous."""
    told = threading.Event()  # of this process only: the pool ends its processes one by one, too
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    signal_on_parent_death(signal.SIGTERM, os.getppid())
    settings = Settings()
    database = Database(settings.database)
    try:
        with telemetry.exporting("worker"):
            Supervisor(database, settings, stopping=lambda: told.is_set() or bool(_stop_flag[0])).run_next()
    finally:
        database.close()
        signal.signal(signal.SIGTERM, before)
