"""A worker that leaves when the queue is empty."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from models.database import Database
from models.job import JobStatus
from models.settings import Settings
from tests.worker.jobs import create, load, wait_until
from tests.worker.test_supervisor import fake, is_at_work
from worker.drain import drain
from worker.supervisor import Supervisor


def test_it_does_all_jobs_and_leaves(database: Database, settings: Settings) -> None:
    jobs = [create(database) for _ in range(3)]
    supervisor = Supervisor(database, settings, stopping=lambda: False, command=fake("succeed"))
    assert drain(supervisor) == 3
    assert {load(database, job).status for job in jobs} == {JobStatus.SUCCEEDED}
    assert drain(supervisor) == 0


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_told_to_stop_it_gives_the_job_back(database: Database, settings: Settings) -> None:
    jobs = [create(database), create(database)]
    stop = threading.Event()
    supervisor = Supervisor(database, settings, stopping=stop.is_set, command=fake("wait"))
    draining = threading.Thread(target=drain, args=(supervisor,))
    draining.start()
    try:
        wait_until(lambda: is_at_work(database, jobs[0]))
    finally:
        stop.set()
        draining.join(timeout=60)
    assert not draining.is_alive()
    assert [load(database, job).status for job in jobs] == [JobStatus.QUEUED] * 2
    assert [load(database, job).attempt for job in jobs] == [1, 0]


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_as_a_process_it_needs_no_broker(database: Database, settings: Settings, tmp_path: Path) -> None:
    job = create(database)  # its model is not on this machine: the real engine refuses it
    environment = {k: v for k, v in os.environ.items() if k != "AXFORGE_BROKER_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "worker.drain"],
        env=environment | settings.environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "queue_empty" in done.stderr
    assert load(database, job).status is JobStatus.FAILED
