"""The worst faults with the real engine: a tiny BERT on a few intents, taken through every stage.

A trigger in the database notes every candidate that an attempt reports: how many are done twice is
counted from that.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from models import lifecycle
from models.job import JobStatus
from models.store import Store
from tests.engine.runs import tiny_sources
from tests.faults.effects import assert_delivered_once, assert_ended_once
from tests.faults.marks import on_sqlite
from tests.faults.service import REAL, Service, runners
from tests.faults.test_disk import small_disk
from tests.worker.jobs import events, load, wait_until
from worker.engine.reporting import STAGES

pytestmark = pytest.mark.slow

BASELINES = 1  # candidates of the baseline, where nothing is quantized: the dense model
FULL_DISK = "1m"
RUN_SECONDS = 900.0
NOTE = {
    "sqlite": [
        f"CREATE TRIGGER note_{change} AFTER {change} ON candidate"
        " BEGIN INSERT INTO note VALUES (NEW.number, NEW.attempt); END"
        for change in ("INSERT", "UPDATE")
    ],
    "postgresql": [
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO note VALUES (NEW.number, NEW.attempt); RETURN NEW; END $$",
        "CREATE TRIGGER note AFTER INSERT OR UPDATE ON candidate FOR EACH ROW EXECUTE FUNCTION note()",
    ],
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        **tiny_sources(tmp_path_factory.mktemp("sources")),
        # Pruning alone, which takes the search many candidates to get so far.
        "approximations": ["prune_layers", "prune_heads", "prune_weight_groups"],
        "constraints": {"size": {"min_reduction": 1.5}},
        "focus": "size",
        "baseline": {"epochs": 1, "learning_rate": 0.003},
        "recovery": "off",
        "budget": {"max_minutes": 1.0},
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latency tables are measured once for all jobs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _prepared(service: Service, cache: Path) -> None:
    service.environment["AXFORGE_CACHE_DIR"] = str(cache)
    with service.database.transaction() as session:
        session.execute(text("CREATE TABLE note (number INTEGER, attempt INTEGER)"))
        for statement in NOTE[service.database.engine.dialect.name]:
            session.execute(text(statement))
    service.keepers()
    service.worker("one", REAL)


def reported(service: Service) -> list[tuple[int, int]]:
    """Candidate and attempt, of every report."""
    with service.database.session() as session:
        return [(row[0], row[1]) for row in session.execute(text("SELECT number, attempt FROM note"))]


def in_search(service: Service, spec: dict[str, Any]) -> str:
    """A job that has found its second candidate of the search and works on the next."""
    job_id = service.create(**spec)
    wait_until(lambda: len(reported(service)) >= BASELINES + 2, RUN_SECONDS)
    return job_id


def assert_lost_at_most_one(service: Service, store: Store, job_id: str) -> None:
    service.wait_until_done(job_id, seconds=RUN_SECONDS)
    assert_delivered_once(service.database, store, job_id)
    times = Counter(number for number, _ in set(reported(service)))
    twice = [number for number, count in times.items() if count > 1]
    assert len(twice) <= 1, f"done twice: {twice}"
    assert {attempt for number, attempt in reported(service) if number < BASELINES} == {1}
    started = [type for type in events(service.database, job_id) if type == "job.started"]
    assert len(started) == load(service.database, job_id).attempt == 2


def test_a_killed_runner(service: Service, store: Store, spec: dict[str, Any]) -> None:
    job_id = in_search(service, spec)
    [runner] = runners(job_id)
    os.kill(runner, signal.SIGKILL)
    assert_lost_at_most_one(service, store, job_id)


def test_a_worker_told_to_stop(service: Service, store: Store, spec: dict[str, Any], tmp_path: Path) -> None:
    job_id = in_search(service, spec)
    service.kill("one", signal.SIGTERM)
    service.worker("two", REAL, AXFORGE_DATA_DIR=str(tmp_path / "elsewhere"))
    assert_lost_at_most_one(service, store, job_id)
    assert load(service.database, job_id).losses == 0


def test_a_lost_machine(service: Service, store: Store, spec: dict[str, Any], tmp_path: Path) -> None:
    job_id = in_search(service, spec)
    service.lose_machine("one", job_id)
    service.worker("two", REAL, AXFORGE_DATA_DIR=str(tmp_path / "elsewhere"))
    assert_lost_at_most_one(service, store, job_id)


def test_a_frozen_machine_that_thaws(
    service: Service, store: Store, spec: dict[str, Any], tmp_path: Path
) -> None:
    job_id = in_search(service, spec)
    frozen = service.freeze("one", job_id)
    service.worker("two", REAL)  # in the same data folder
    wait_until(lambda: load(service.database, job_id).status is JobStatus.QUEUED, 60)
    service.hurry()
    wait_until(lambda: load(service.database, job_id).attempt == 2, 60)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    assert_lost_at_most_one(service, store, job_id)


def test_all_servers_restarted_under_a_run(service: Service, store: Store, spec: dict[str, Any]) -> None:
    """Nothing is lost of a run that could not write for a while."""
    job_id = in_search(service, spec)
    service.redis.kill()
    if service.postgres is not None:
        service.postgres.crash()
        service.postgres.start()
    service.redis.start()
    service.wait_until_done(job_id, seconds=RUN_SECONDS)
    assert_delivered_once(service.database, store, job_id)
    assert load(service.database, job_id).attempt == 1
    assert max(Counter(reported(service)).values()) == 1


@on_sqlite
@pytest.mark.parametrize("stage", STAGES)
def test_cancelled_in_every_stage(service: Service, spec: dict[str, Any], stage: str) -> None:
    job_id = service.create(**spec)

    def reached() -> bool:
        progress = load(service.database, job_id).progress
        return progress is not None and STAGES.index(progress["stage"]) >= STAGES.index(stage)

    wait_until(reached, RUN_SECONDS)
    with service.database.transaction() as session:
        lifecycle.request_cancel(session, job_id)
    service.wait_until_done(job_id)
    assert_ended_once(service.database, job_id, JobStatus.CANCELLED)


@on_sqlite
def test_a_disk_that_fills_up(service: Service, spec: dict[str, Any], tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", FULL_DISK):
        service.kill("one")
        service.worker("one", REAL, AXFORGE_DATA_DIR=str(tmp_path / "small"))
        job_id = service.create(**spec)
        service.wait_until_done(job_id, seconds=RUN_SECONDS)
        assert_ended_once(service.database, job_id, JobStatus.FAILED)
        error = load(service.database, job_id).error
        service.kill("one")
    assert error is not None
    assert error["code"] == "disk_full"
