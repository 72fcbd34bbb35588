"""Real workers that share a tiny model's weighing and trials, and what happens when one of them is lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from models.job import JobStatus
from models.store import Store, blob_key
from models.tables import Artifact, CandidateRow, Event, Shard, ShardStatus
from tests.engine.runs import tiny_sources
from tests.faults.effects import assert_delivered_once, assert_ended_once
from tests.faults.marks import on_sqlite
from tests.faults.service import Service, children, is_alive
from tests.faults.test_cancel import cancel
from tests.worker.jobs import events, load, wait_until

pytestmark = pytest.mark.slow

APP = "tests.faults.fanout"
RUN_SECONDS = 900.0
SHARES = 8  # four for each of two workers


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        **tiny_sources(tmp_path_factory.mktemp("sources")),
        "constraints": {"size": {"min_reduction": 3.8}},
        "focus": "size",
        "baseline": {"epochs": 1, "learning_rate": 0.003},
        "recovery": "off",
        "budget": {"max_minutes": 1.0, "max_workers": 2},
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def of_one_worker() -> dict[str, Any]:
    """What the elements weigh when one worker does the job, once it is known."""
    return {}


@pytest.fixture(autouse=True)
def _prepared(service: Service, cache: Path) -> None:
    service.environment["AXFORGE_CACHE_DIR"] = str(cache)
    service.keepers()
    service.worker("one", APP)


def helping(service: Service, spec: dict[str, Any], folder: Path, held: str, stage: str = "analyse") -> str:
    """A job whose run waits inside its first share of a stage, while another machine's worker helps.

    `held` says what waits: the run only, or the helper in its first share as well.
    """
    service.hold(f"run-{stage}")
    if held == "both":
        service.hold(f"help-{stage}")
    job_id = service.create(**spec)
    wait_until(lambda: f"run {stage}" in service.log(), RUN_SECONDS)
    service.worker("two", APP, AXFORGE_DATA_DIR=str(folder))
    wait_until(lambda: f"help {stage}" in service.log(), RUN_SECONDS)
    return job_id


def by_status(service: Service, job_id: str) -> dict[ShardStatus, int]:
    with service.database.session() as session:
        statuses = list(session.scalars(select(Shard.status).where(Shard.job_id == job_id)))
    return {status: statuses.count(status) for status in set(statuses)}


def go_on(service: Service, role: str, stage: str = "analyse") -> None:
    (service.faults / f"hold-{role}-{stage}").unlink()


def significance(service: Service, store: Store, job_id: str) -> dict[str, Any]:
    with service.database.session() as session:
        row = session.scalars(
            select(Artifact).where(Artifact.job_id == job_id, Artifact.name == "significance.json")
        ).one()
    document = json.loads(b"".join(store.open_range(blob_key(row.sha256, row.generation))))
    weights = {each["id"]: each["loss_change"] for each in document["elements"]}
    return {"base_loss": document["base_loss"], **weights}


def shared(service: Service, job_id: str, stage: str = "analyse") -> list[dict[str, Any]]:
    with service.database.session() as session:
        told = session.scalars(select(Event).where(Event.job_id == job_id, Event.type == f"{stage}.shared"))
        return [event.data for event in told]


def assert_weighed_alike(
    service: Service, store: Store, spec: dict[str, Any], job_id: str, of_one_worker: dict[str, Any]
) -> None:
    """The same numbers as those of the job on one worker, and nothing left behind."""
    service.wait_until_done(job_id, seconds=RUN_SECONDS)
    assert_delivered_once(service.database, store, job_id)
    assert by_status(service, job_id) == {}
    if not of_one_worker:
        alone = service.create(**{**spec, "budget": {**spec["budget"], "max_workers": 1}})
        service.wait_until_done(alone, seconds=RUN_SECONDS)
        assert load(service.database, alone).spec_digest == load(service.database, job_id).spec_digest
        assert shared(service, alone) == []
        of_one_worker.update(significance(service, store, alone))
    assert significance(service, store, job_id) == of_one_worker


def test_two_workers_weigh_as_one_does(
    service: Service,
    store: Store,
    spec: dict[str, Any],
    tmp_path: Path,
    of_one_worker: dict[str, Any],
) -> None:
    elsewhere = tmp_path / "elsewhere"
    job_id = helping(service, spec, elsewhere, held="run")
    wait_until(lambda: by_status(service, job_id).get(ShardStatus.DONE) == SHARES - 1, RUN_SECONDS)
    go_on(service, "run")
    assert_weighed_alike(service, store, spec, job_id, of_one_worker)
    assert shared(service, job_id) == [{"shares": SHARES, "by_others": SHARES - 1}]
    assert load(service.database, job_id).attempt == 1
    assert list((elsewhere / "work").glob("*/helper-*")) == []


def test_a_killed_helper(
    service: Service,
    store: Store,
    spec: dict[str, Any],
    tmp_path: Path,
    of_one_worker: dict[str, Any],
) -> None:
    """Its supervisor gives the share back, and the run does it."""
    job_id = helping(service, spec, tmp_path / "elsewhere", held="both")
    [helper] = helpers(service, "two")
    service.processes["two"].send_signal(signal.SIGSTOP)  # it takes no other hint
    os.kill(helper, signal.SIGKILL)
    wait_until(lambda: failures(service, job_id) == 1, 60)
    go_on(service, "run")
    assert_weighed_alike(service, store, spec, job_id, of_one_worker)


def test_a_lost_machine_of_a_helper(
    service: Service,
    store: Store,
    spec: dict[str, Any],
    tmp_path: Path,
    of_one_worker: dict[str, Any],
) -> None:
    """Nobody gives its share back: the run takes it when the lease is over."""
    job_id = helping(service, spec, tmp_path / "elsewhere", held="both")
    service.lose_machine("two", job_id)
    go_on(service, "run")
    assert_weighed_alike(service, store, spec, job_id, of_one_worker)
    assert shared(service, job_id) == []


def test_a_frozen_helper_that_thaws(
    service: Service,
    store: Store,
    spec: dict[str, Any],
    tmp_path: Path,
    of_one_worker: dict[str, Any],
) -> None:
    """Its result comes after its share was taken back, and is refused."""
    job_id = helping(service, spec, tmp_path / "elsewhere", held="both")
    frozen = service.freeze("two", job_id)
    go_on(service, "help")
    go_on(service, "run")
    service.wait_until_done(job_id, seconds=RUN_SECONDS)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_alive(frozen[0]), 60)
    assert_weighed_alike(service, store, spec, job_id, of_one_worker)
    assert shared(service, job_id) == []


def test_a_lost_run_whose_helper_lives(
    service: Service,
    store: Store,
    spec: dict[str, Any],
    tmp_path: Path,
    of_one_worker: dict[str, Any],
) -> None:
    """The next attempt has what the helper did."""
    job_id = helping(service, spec, tmp_path / "elsewhere", held="run")
    wait_until(lambda: by_status(service, job_id).get(ShardStatus.DONE) == SHARES - 1, RUN_SECONDS)
    service.lose_machine("one", job_id)
    go_on(service, "run")
    assert_weighed_alike(service, store, spec, job_id, of_one_worker)
    assert load(service.database, job_id).attempt == 2
    assert shared(service, job_id) == [{"shares": SHARES, "by_others": SHARES - 1}]


def test_two_workers_try_arms_as_one_does(
    service: Service, store: Store, spec: dict[str, Any], tmp_path: Path
) -> None:
    """The helper is killed in its trial, and its worker's next one does it again."""
    arms = {
        **spec,
        "constraints": {"size": {"min_reduction": 4.2}},
        "recovery": {"epochs": 1},
        # Enough that no trial is cut by its time, however busy the machine is.
        "budget": {"max_minutes": 4.0, "max_workers": 2},
    }
    job_id = helping(service, arms, tmp_path / "elsewhere", held="both", stage="search")
    [helper] = helpers(service, "two")
    os.kill(helper, signal.SIGKILL)
    go_on(service, "help", "search")
    arms_tried = sum(by_status(service, job_id).values())
    wait_until(lambda: by_status(service, job_id).get(ShardStatus.DONE) == arms_tried - 1, RUN_SECONDS)
    go_on(service, "run", "search")
    service.wait_until_done(job_id, seconds=RUN_SECONDS)
    assert_delivered_once(service.database, store, job_id)
    assert shared(service, job_id, "search") == [{"shares": arms_tried, "by_others": arms_tried - 1}]

    alone = service.create(**{**arms, "budget": {**arms["budget"], "max_workers": 1}})
    service.wait_until_done(alone, seconds=RUN_SECONDS)
    assert shared(service, alone, "search") == []
    tried = searched(service, job_id)
    assert sum("trained for a moment" in reason for reason, *_ in tried) == arms_tried
    assert tried == searched(service, alone)


@on_sqlite
def test_a_cancelled_job_frees_its_helper(service: Service, spec: dict[str, Any], tmp_path: Path) -> None:
    job_id = helping(service, spec, tmp_path / "elsewhere", held="both")
    [helper] = helpers(service, "two")
    cancel(service, job_id)
    service.wait_until_done(job_id)
    wait_until(lambda: not is_alive(helper), 60)
    assert_ended_once(service.database, job_id, JobStatus.CANCELLED)
    wait_until(lambda: by_status(service, job_id) == {}, 60)
    assert "analyse.shared" not in events(service.database, job_id)


def searched(service: Service, job_id: str) -> list[tuple[Any, ...]]:
    """The search's candidates: why, what, and how they did."""
    with service.database.session() as session:
        of_search = CandidateRow.job_id == job_id, CandidateRow.stage == "search"
        rows = session.scalars(select(CandidateRow).where(*of_search).order_by(CandidateRow.number))
        figures = ("loss", "metric")
        return [(row.reason, row.recipe, *(row.measurements[name] for name in figures)) for row in rows]


def helpers(service: Service, name: str) -> list[int]:
    """Process ids of the helpers that a worker started."""
    return [helper for child in children(service.processes[name].pid) for helper in children(child)]


def failures(service: Service, job_id: str) -> int:
    with service.database.session() as session:
        return sum(session.scalars(select(Shard.failures).where(Shard.job_id == job_id)))
