from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import select, text

from models import journal, lifecycle
from models.database import Database
from models.settings import Settings
from models.store import open_store
from models.tables import CandidateRow, Event
from tests.worker.fake_runner import candidate
from tests.worker.jobs import create, events, load
from worker.checkpoints import Checkpoints
from worker.engine.errors import Stopped
from worker.engine.measure.process import peak_rss_bytes
from worker.engine.reporting import FINISHED, STAGES, STARTED, Stage
from worker.progress import WEIGHTS, Gauge
from worker.reporter import DatabaseReporter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def job_id(database: Database) -> str:
    job_id = create(database)
    with database.transaction() as session:
        assert lifecycle.claim_one(session, job_id, "w", 60) is not None
    return job_id


@pytest.fixture
def reporter(
    database: Database, settings: Settings, job_id: str, clock: Clock, tmp_path: Path
) -> DatabaseReporter:
    checkpoints = Checkpoints(database, open_store(settings.store), job_id, 1, tmp_path)
    return DatabaseReporter(database, job_id, 1, checkpoints, clock=clock)


def test_the_weights_are_shares_of_all_stages() -> None:
    assert tuple(WEIGHTS) == STAGES
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)


def test_the_time_left_follows_the_rate(clock: Clock) -> None:
    gauge = Gauge(clock)
    assert gauge.document("prepare", 0, None, "")["eta_seconds"] is None
    done = WEIGHTS["prepare"] + WEIGHTS["baseline"]
    clock.now += 100 * done
    document = gauge.document("baseline", 10, 10, "trained")
    assert document["fraction"] == pytest.approx(done)
    assert document["eta_seconds"] == pytest.approx(100 * (1 - done), abs=0.1)
    assert gauge.document("baseline", 5, 10, "")["fraction"] == pytest.approx(done)


def test_progress_is_thinned_but_every_stage_is_told(
    reporter: DatabaseReporter, database: Database, job_id: str, clock: Clock
) -> None:
    reporter.progress("prepare", 0)
    version = load(database, job_id).version
    for step in range(50):
        reporter.progress("prepare", step, 100)
    assert load(database, job_id).version == version
    clock.now += 1
    reporter.progress("prepare", 51, 100, "tokens", loss=0.1)
    progress = load(database, job_id).progress
    assert progress is not None
    assert (progress["step"], progress["total"], progress["message"]) == (51, 100, "tokens")
    reporter.progress("baseline", 0)
    progress = load(database, job_id).progress
    assert progress is not None
    assert progress["stage"] == "baseline"
    assert events(database, job_id).count("stage.started") == 2


def test_memory_of_a_gpu_is_told_only_where_one_is_used(
    reporter: DatabaseReporter, database: Database, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(stage: Stage) -> dict[str, object]:
        reporter.progress(stage, 0)
        return load(database, job_id).progress or {}

    class Cuda:
        initialized = False

        def is_initialized(self) -> bool:
            return self.initialized

        def max_memory_reserved(self) -> int:
            return 12345

    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    without = told("prepare")
    assert "device_memory_bytes" not in without
    assert without["memory_bytes"] == pytest.approx(peak_rss_bytes(), rel=0.2)
    cuda.initialized = True
    assert told("baseline")["device_memory_bytes"] == 12345
    monkeypatch.delitem(sys.modules, "torch")
    assert "device_memory_bytes" not in told("analyse")


def test_a_stage_that_an_earlier_attempt_did_does_not_begin_again(
    reporter: DatabaseReporter, database: Database, job_id: str
) -> None:
    reporter.progress("prepare", 1, 1, FINISHED)
    reporter.progress("baseline", 0, None, STARTED)
    with database.session() as session:
        told = session.scalars(select(Event.message).where(Event.type == "stage.started")).all()
    assert told == ["Stage baseline has begun."]


def test_a_stage_is_saved_as_soon_as_it_is_finished(
    reporter: DatabaseReporter, database: Database, job_id: str, tmp_path: Path
) -> None:
    """Whoever is stopped before the next one begins has not done it in vain."""
    reporter.progress("baseline", 0, None, STARTED)
    write(tmp_path / "run-1", {"baseline/done.json": "{}"})
    reporter.progress("baseline", 1, 1, FINISHED)
    reporter.stop()
    with database.session() as session:
        assert [row.name for row in journal.checkpoints(session, job_id)] == ["baseline/done.json"]


def test_a_cancelled_run_is_stopped_at_its_next_step(
    reporter: DatabaseReporter, database: Database, job_id: str
) -> None:
    reporter.check()
    with database.transaction() as session:
        lifecycle.request_cancel(session, job_id)
    reporter.progress("prepare", 0)
    with pytest.raises(Stopped):
        reporter.check()


def test_a_lost_lease_stops_the_run(reporter: DatabaseReporter, database: Database, job_id: str) -> None:
    with database.transaction() as session:
        lifecycle.cancel_run(session, job_id, 1)
    with pytest.raises(Stopped):
        reporter.event("x", "y")
    with pytest.raises(Stopped):
        reporter.check()


def test_what_could_not_be_written_is_written_later(
    reporter: DatabaseReporter, database: Database, job_id: str
) -> None:
    with database.transaction() as session:
        session.execute(text("ALTER TABLE job RENAME TO away"))
    reporter.event("first", "It is not there.")
    reporter.candidate(candidate(0))
    reporter.progress("search", 0)
    with database.transaction() as session:
        session.execute(text("ALTER TABLE away RENAME TO job"))
    reporter.event("second", "It is back.")
    assert events(database, job_id)[-3:] == ["first", "stage.started", "second"]
    with database.session() as session:
        assert session.get(CandidateRow, (job_id, 0)) is not None


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def test_only_new_and_finished_work_is_saved_and_comes_back(
    database: Database, settings: Settings, job_id: str, tmp_path: Path
) -> None:
    store = open_store(settings.store)
    here = Checkpoints(database, store, job_id, 1, tmp_path / "here")
    assert here.restore() == 0
    whole = {
        "prepare/done.json": "{}",
        "prepare/data/train.bin": "rows",
        "search/state.json": "1",
        "clock.json": "5",
    }
    write(tmp_path / "here" / "run-1", whole | {"baseline/half.bin": "half of it", "run.json": "local"})
    assert here.save() == 4
    assert here.save() == 0
    write(tmp_path / "here" / "run-1", {"search/state.json": "12"})
    assert here.save() == 1

    there = Checkpoints(database, store, job_id, 1, tmp_path / "there")
    assert there.restore() == 4
    assert files_of(tmp_path / "there" / "run-1") == whole | {"search/state.json": "12"}
    assert there.save() == 0


def test_the_newest_work_is_gone_on_with(
    database: Database, settings: Settings, job_id: str, tmp_path: Path
) -> None:
    store = open_store(settings.store)

    def attempt(number: int, machine: str) -> Checkpoints:
        if number > 1:
            with database.transaction() as session:
                lifecycle.release(session, job_id, number - 1, message="stop")
                lifecycle.claim_one(session, job_id, machine, 60)
        return Checkpoints(database, store, job_id, number, tmp_path / machine)

    first = attempt(1, "a")
    first.restore()
    write(tmp_path / "a" / "run-1", {"search/state.json": "1", "search/old.json": "x"})
    first.save()

    second = attempt(2, "b")
    assert second.restore() == 2
    (tmp_path / "b" / "run-2" / "search" / "old.json").unlink()
    write(tmp_path / "b" / "run-2", {"search/state.json": "2"})
    second.save()

    assert attempt(3, "a").restore() == 1  # what lies on machine a is older
    assert files_of(tmp_path / "a" / "run-3") == {"search/state.json": "2"}
    write(tmp_path / "a" / "run-3", {"search/state.json": "3, not saved"})
    assert attempt(4, "a").restore() == 0  # and now it is the newest
    assert files_of(tmp_path / "a" / "run-4") == {"search/state.json": "3, not saved"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run-4"]


def test_a_run_thought_dead_takes_nothing_from_its_follower(
    database: Database, settings: Settings, job_id: str, tmp_path: Path
) -> None:
    """On one machine: it may thaw before it has looked for earlier work, or while it writes."""
    store = open_store(settings.store)
    dead, follower = (Checkpoints(database, store, job_id, number, tmp_path / "here") for number in (1, 2))
    write(dead.folder, {"search/state.json": "1"})
    assert follower.restore() == 0
    assert files_of(tmp_path / "here") == {"run-2/search/state.json": "1"}
    dead.restore()
    with pytest.raises(FileNotFoundError):
        (dead.folder / "search" / "state.json").write_text("of the dead")
    assert files_of(tmp_path / "here") == {"run-2/search/state.json": "1"}


def test_events_of_one_job_rise(reporter: DatabaseReporter, database: Database, job_id: str) -> None:
    for number in range(5):
        reporter.event("n", str(number))
    with database.session() as session:
        rows = session.query(Event).order_by(Event.id).all()
    assert [row.message for row in rows][-5:] == ["0", "1", "2", "3", "4"]
