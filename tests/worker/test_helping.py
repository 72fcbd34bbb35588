"""A worker without a job: it helps, keeps its lease, and gives back what its helper could not do."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import select

from models import lifecycle, shards
from models.database import Database
from models.settings import Settings
from models.shards import ClaimedShard
from models.tables import Shard, ShardStatus
from tests.worker.jobs import create, load, wait_until
from tests.worker.test_supervisor import fake
from worker.helping import helper_command
from worker.supervisor import Supervisor
from worker.workfolder import helper_folder

STAGE = "analyse"
sqlite_only = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


def offering(database: Database, shares: int = 2) -> str:
    """A job that runs elsewhere and has put out its shares."""
    job_id = create(database, budget={"max_workers": 2})
    with database.transaction() as session:
        assert lifecycle.claim_one(session, job_id, "parent", 60) is not None
        payloads = [{"number": number} for number in range(shares)]
        shards.put_out(session, job_id, 1, STAGE, payloads, helpers=1)
    return job_id


def python(program: str) -> Callable[[ClaimedShard], list[str]]:
    return lambda shard: [sys.executable, "-c", program]


def worker(
    database: Database,
    settings: Settings,
    command: Callable[[ClaimedShard], list[str]],
    stopping: Callable[[], bool] = lambda: False,
) -> Supervisor:
    return Supervisor(database, settings, stopping, fake("succeed"), command)


def rows(database: Database) -> list[Shard]:
    with database.session() as session:
        return list(session.scalars(select(Shard).order_by(Shard.number)))


def test_a_worker_without_a_job_helps(database: Database, settings: Settings) -> None:
    job_id = offering(database)
    finishing = (
        "import sys; from models.database import Database; from models.settings import Settings;"
        "from models import shards; database = Database(Settings().database)\n"
        "with database.transaction() as session:\n"
        "    shard = shards.held(session, *sys.argv[1:])\n"
        "    shards.finish(session, shard, {'done': True})"
    )
    command = lambda shard: [sys.executable, "-c", finishing, shard.job_id, shard.holder]  # noqa: E731
    assert worker(database, settings, command).run_next() == job_id
    assert [row.result for row in rows(database)] == [{"done": True}, None]
    assert load(database, job_id).attempt == 1


def test_jobs_go_first(database: Database, settings: Settings) -> None:
    offering(database)
    waiting = create(database)
    assert worker(database, settings, python("raise SystemExit(1)")).run_next() == waiting
    assert {row.attempt for row in rows(database)} == {0}


@sqlite_only
@pytest.mark.parametrize(
    ("program", "failures"),
    [
        ("", 0),  # it found nothing to do
        ("raise SystemExit(75)", 0),
        ("raise SystemExit(1)", 1),
        ("raise SystemExit(69)", 1),
        ("import os; os.kill(os.getpid(), 9)", 1),
    ],
)
def test_what_a_helper_did_not_do_is_given_back(
    database: Database, settings: Settings, program: str, failures: int
) -> None:
    job_id = offering(database)
    assert worker(database, settings, python(program)).run_next() == job_id
    assert {row.status for row in rows(database)} == {ShardStatus.WAITING}
    assert sum(row.failures for row in rows(database)) == failures


def test_a_stopping_worker_gives_its_share_back(database: Database, settings: Settings) -> None:
    offering(database)
    stop = threading.Event()
    supervisor = worker(database, settings, python("import time; time.sleep(60)"), stop.is_set)
    thread = threading.Thread(target=supervisor.run_next)
    thread.start()
    wait_until(lambda: rows(database)[0].status is ShardStatus.RUNNING)
    first = rows(database)[0].lease_until
    wait_until(lambda: rows(database)[0].lease_until != first)  # its heart beats
    stop.set()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert [(row.status, row.failures) for row in rows(database)] == [(ShardStatus.WAITING, 0)] * 2


def test_a_helper_is_stopped_when_the_run_took_its_share(database: Database, settings: Settings) -> None:
    job_id = offering(database, shares=1)
    supervisor = worker(database, settings, python("import time; time.sleep(60)"))
    thread = threading.Thread(target=supervisor.run_next)
    thread.start()
    wait_until(lambda: rows(database)[0].holder)
    with database.transaction() as session:
        assert shards.take(session, job_id, 1, STAGE) == 0
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert [(row.status, row.holder) for row in rows(database)] == [(ShardStatus.RUNNING, None)]


@sqlite_only
def test_without_a_checkpoint_the_share_is_left_to_the_run(database: Database, settings: Settings) -> None:
    job_id = offering(database)
    for times in range(1, shards.MOST_FAILURES + 1):
        assert worker(database, settings, helper_command).run_next() == job_id
        assert sum(row.failures for row in rows(database)) == times
    assert worker(database, settings, helper_command).run_next() is None
    assert not list((settings.data_dir / "work").glob("*/helper-*"))
    assert helper_folder(settings.data_dir, job_id, "host:1:abc").name == "helper-abc"
