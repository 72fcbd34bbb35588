"""Processes killed, stopped, frozen: the job goes on and loses at most the candidate in flight."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from models.job import JobStatus
from models.store import Store
from tests.faults.effects import assert_delivered_once
from tests.faults.service import Service, children, is_alive, runners
from tests.worker.jobs import events, load, wait_until

IN_FLIGHT = {"candidate-2": 2}  # of all work, this is done twice


def run_until_in_flight(service: Service) -> str:
    """One job, waiting inside its third candidate on the worker `one`."""
    service.hold("1-candidate-2")
    job_id = service.create()
    service.worker("one")
    service.keepers()
    service.wait_for_work("1 candidate-2")
    return job_id


def test_a_killed_runner(service: Service, store: Store) -> None:
    job_id = run_until_in_flight(service)
    [runner] = runners(job_id)
    os.kill(runner, signal.SIGKILL)
    service.wait_until_done(job_id)
    assert_delivered_once(service.database, store, job_id)
    assert service.done_twice() == IN_FLIGHT
    assert load(service.database, job_id).attempt == 2


@pytest.mark.slow
def test_a_killed_pool_child(service: Service, store: Store) -> None:
    job_id = run_until_in_flight(service)
    [runner] = runners(job_id)
    [child] = children(service.processes["one"].pid)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: not is_alive(runner))  # nobody would extend its lease
    service.wait_until_done(job_id)
    assert_delivered_once(service.database, store, job_id)
    assert service.done_twice() == IN_FLIGHT


@pytest.mark.slow
def test_a_killed_worker_gives_its_job_back(service: Service, store: Store, tmp_path: Path) -> None:
    """Its pool child outlives it just long enough to do so."""
    job_id = run_until_in_flight(service)
    service.kill("one")
    service.worker("two", AXFORGE_DATA_DIR=str(tmp_path / "elsewhere"))
    service.wait_until_done(job_id)
    assert_delivered_once(service.database, store, job_id)
    assert service.done_twice() == IN_FLIGHT
    assert load(service.database, job_id).losses == 0


@pytest.mark.slow
def test_a_lost_machine(service: Service, store: Store, tmp_path: Path) -> None:
    """Worker, pool child and runner end at once, and nobody can say so; another machine has their files."""
    job_id = run_until_in_flight(service)
    service.lose_machine("one", job_id)
    service.worker("two", AXFORGE_DATA_DIR=str(tmp_path / "elsewhere"))
    service.wait_until_done(job_id)
    assert_delivered_once(service.database, store, job_id)
    assert service.done_twice() == IN_FLIGHT
    assert load(service.database, job_id).losses == 1
    assert "run.restored" in events(service.database, job_id)


@pytest.mark.slow
def test_a_worker_told_to_stop_hands_its_job_over(service: Service, store: Store, tmp_path: Path) -> None:
    job_id = run_until_in_flight(service)
    service.kill("one", signal.SIGTERM)
    job = load(service.database, job_id)
    assert (job.status, job.losses, job.worker) == (JobStatus.QUEUED, 0, None)
    service.worker("two", AXFORGE_DATA_DIR=str(tmp_path / "elsewhere"))
    service.wait_until_done(job_id)
    assert_delivered_once(service.database, store, job_id)
    assert service.done_twice() == IN_FLIGHT
    assert "run.restored" in events(service.database, job_id)


@pytest.mark.parametrize("place", ["same machine", pytest.param("other machine", marks=pytest.mark.slow)])
def test_a_frozen_worker_that_thaws_writes_nothing(
    service: Service, store: Store, tmp_path: Path, place: str
) -> None:
    """It thaws while the next attempt is at work, which then dies: the zombie's files must not count."""
    job_id = run_until_in_flight(service)
    frozen = service.freeze("one", job_id)
    service.hold("2-candidate-4")
    folder = service.data_dir if place == "same machine" else tmp_path / "elsewhere"
    service.worker("two", AXFORGE_DATA_DIR=str(folder))
    wait_until(lambda: load(service.database, job_id).status is JobStatus.QUEUED, 60)
    service.hurry()
    service.wait_for_work("2 candidate-4")

    (service.faults / "hold-1-candidate-2").unlink()
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_alive(frozen[0]), 60)
    [second] = runners(job_id)
    os.kill(second, signal.SIGKILL)
    service.wait_until_done(job_id)
    assert_delivered_once(service.database, store, job_id)
    assert load(service.database, job_id).attempt == 3
    assert service.done_twice() == {"candidate-2": 2, "candidate-4": 2}
