"""A run that exports a candidate begins with the state of the job that found it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models import exporting, journal, lifecycle
from models.checkpoint import checkpoint_folder
from models.database import Database
from models.exporting import Origin
from models.job import Job
from models.settings import Settings
from models.store import Store, open_store
from tests.worker.jobs import create
from worker.checkpoints import Checkpoints
from worker.exporting import ForeignState, StateGone, origin_of

STATE = {
    "clock.json": '{"seconds": 1.0}',
    "search/done.json": '{"candidates": 7}',
    "recover/climb.json": json.dumps({"first": None, "rungs": [{"number": 0}, {"number": 1}]}),
    "recover/done.json": '{"number": 1, "folder": "rung-1"}',
    "recover/rung-0/model/config.json": "{}",
    "recover/rung-1/model/config.json": "{}",
    "export/done.json": "{}",
    "certify/done.json": "{}",
}


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.store)


@pytest.fixture
def source(database: Database, store: Store, tmp_path: Path) -> Job:
    """A job that has succeeded and left a state with two rungs, candidates 7 and 8."""
    job_id = create(database)
    with database.transaction() as session:
        claimed = lifecycle.claim_one(session, job_id, "w", 60)
    assert claimed is not None
    with database.transaction() as session:
        for name, content in STATE.items():
            file = tmp_path / "blob"
            file.write_text(content)
            blob = store.put_file(file, folder=checkpoint_folder(job_id))
            journal.save_checkpoint(session, job_id, 1, name, sha256=blob.sha256, size=blob.size)
        lifecycle.succeed(session, job_id, 1, result={}, artifacts=[], progress={})
    with database.session() as session:
        return session.get_one(Job, job_id)


def started(database: Database, store: Store, source: Job, number: int, home: Path) -> Checkpoints:
    with database.transaction() as session:
        child = exporting.start(session, source, number)
    origin = origin_of(database, child.id)
    assert origin == Origin(source.id, number)
    return ForeignState(database, store, child.id, 1, home, origin)


def test_it_settles_on_the_rung_and_leaves_what_was_exported_before(
    database: Database, store: Store, source: Job, tmp_path: Path
) -> None:
    state = started(database, store, source, 7, tmp_path / "home")
    assert state.restore() == len(STATE) - 2
    assert not (state.folder / "export").exists()
    done = json.loads((state.folder / "recover" / "done.json").read_text())
    assert done == {"number": 0, "rungs": 2, "folder": "rung-0"}
    assert state.save() == 0
    assert state.restore() == len(STATE) - 2  # a second attempt begins anew


@pytest.mark.parametrize("number", [6, 9])
def test_a_candidate_that_has_no_rung_fails_the_run(
    database: Database, store: Store, source: Job, tmp_path: Path, number: int
) -> None:
    with pytest.raises(StateGone, match="does not hold candidate"):
        started(database, store, source, number, tmp_path / "home").restore()


def test_a_state_that_is_gone_fails_the_run(
    database: Database, store: Store, source: Job, tmp_path: Path
) -> None:
    state = started(database, store, source, 7, tmp_path / "home")
    with database.transaction() as session:
        for name in STATE:
            session.delete(session.get_one(journal.Checkpoint, (source.id, name)))
    with pytest.raises(StateGone):
        state.restore()


def test_a_job_that_searches_has_no_origin(database: Database, source: Job) -> None:
    assert origin_of(database, source.id) is None
