"""Hints, the dispatcher that makes up for lost ones, and the reaper."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import select, update

from models import journal, lifecycle
from models.base import utc_now
from models.database import Database
from models.job import DEFAULT_TENANT, JobStatus
from models.settings import Settings
from models.store import open_store
from models.tables import Checkpoint, ComputeUse, IdempotencyKey, Job
from tests.worker.jobs import create, load, wait_until
from worker import dispatcher, reaper
from worker.celery_app import hint_queue, make_celery, send_hint, waiting_hints
from worker.checkpoints import checkpoint_folder
from worker.embedded import FolderInUse, bundled_redis, folder_broker, stack
from worker.workfolder import sweep, work_folder

NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture(params=["redis", "folder"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield folder_broker(tmp_path)
        return
    with bundled_redis(tmp_path) as url:
        assert url is not None
        yield url


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'axforge.db'}")
    Job.metadata.create_all(database.engine)
    yield database
    database.close()


def test_a_hint_waits_in_the_queue(broker: str) -> None:
    assert waiting_hints(broker) == 0
    assert send_hint(broker, "cpu")
    assert send_hint(broker, "cpu")
    assert waiting_hints(broker) == 2


@pytest.mark.parametrize("broker", [None, NOBODY])
def test_a_hint_that_cannot_be_sent_raises_nothing(broker: str | None) -> None:
    assert not send_hint(broker, "cpu")


def test_lost_hints_are_sent_again(broker: str, sqlite: Database) -> None:
    for _ in range(3):
        create(sqlite)
    assert send_hint(broker, "cpu")  # two of the three were lost
    assert dispatcher.top_up(sqlite, broker) == 2
    assert dispatcher.top_up(sqlite, broker) == 0
    assert waiting_hints(broker) == 3


def test_each_device_has_hints_of_its_own(broker: str, sqlite: Database) -> None:
    for device in ("cpu", "cuda", "cuda"):
        job_id = create(sqlite)
        with sqlite.transaction() as session:
            session.execute(update(Job).where(Job.id == job_id).values(device=device))
    assert dispatcher.top_up(sqlite, broker) == 3
    assert (waiting_hints(broker, "cpu"), waiting_hints(broker, "cuda")) == (1, 2)
    listens = make_celery(broker, ("cuda",)).amqp.queues.consume_from
    assert list(listens) == [hint_queue("cuda")]


def test_the_dispatcher_counts_only_jobs_whose_time_has_come(broker: str, sqlite: Database) -> None:
    create(sqlite)
    with sqlite.transaction() as session:
        session.execute(update(Job).values(available_at=utc_now() + timedelta(hours=1)))
    assert dispatcher.top_up(sqlite, broker) == 0


def test_the_dispatcher_sends_no_hints_for_tenants_without_minutes(broker: str, sqlite: Database) -> None:
    create(sqlite)
    with sqlite.transaction() as session:
        session.add(ComputeUse(tenant=DEFAULT_TENANT, day=utc_now().date(), seconds=61))
    assert dispatcher.top_up(sqlite, broker, compute_minutes=1.0) == 0
    assert dispatcher.top_up(sqlite, broker, compute_minutes=2.0) == 1


def test_the_dispatcher_survives_a_broker_that_is_away(sqlite: Database) -> None:
    create(sqlite)
    assert dispatcher.top_up(sqlite, NOBODY) == 0


def test_a_lost_job_is_hinted_at_again_within_15_seconds_of_its_lease() -> None:
    # The reaper has just looked; then the first backoff; then the dispatcher has just looked.
    defaults = Settings()
    assert defaults.reap_seconds + lifecycle.BACKOFF_SECONDS + defaults.dispatch_seconds < 15


def test_the_bundled_redis_keeps_its_queue_and_listens_to_nobody_else(tmp_path: Path) -> None:
    for expected in (0, 1):
        with bundled_redis(tmp_path) as url:
            assert url is not None
            path = url.removeprefix("redis+socket://")
            client = Redis(unix_socket_path=path)
            assert client.config_get("port") == {"port": "0"}
            client.close()
            assert waiting_hints(url) == expected
            send_hint(url, "cpu")
        assert not Path(path).exists()


def test_the_reaper_takes_back_and_clears_away(database: Database, settings: Settings) -> None:
    store = open_store(settings.store)
    lost, done = create(database), create(database)
    (settings.data_dir).mkdir()
    note = settings.data_dir / "note"
    note.write_bytes(b"kept for later")
    for job_id in (lost, done):
        blob = store.put_file(note, folder=checkpoint_folder(job_id))
        work_folder(settings.data_dir, job_id).mkdir(parents=True)
        with database.transaction() as session:
            lifecycle.claim_one(session, job_id, "w", 60)
            journal.save_checkpoint(session, job_id, 1, "note", sha256=blob.sha256, size=blob.size)
            session.add(IdempotencyKey(key=job_id, request_digest="0" * 64, status=202))
    with database.transaction() as session:
        lifecycle.cancel_run(session, done, 1)
        old = utc_now() - timedelta(hours=settings.idempotency_hours + 1)
        session.execute(update(IdempotencyKey).where(IdempotencyKey.key == done).values(created_at=old))
        session.execute(update(Job).where(Job.id == lost).values(lease_until=utc_now() - timedelta(1)))

    assert reaper.take_back(database, settings).queued == [lost]
    reaper.clear_away(database, store, settings)
    assert sweep(database, settings.data_dir) == [done]

    assert load(database, lost).status is JobStatus.QUEUED
    assert [key.split("/")[1] for key in store.list("checkpoint")] == [lost]
    assert work_folder(settings.data_dir, lost).exists()
    assert not work_folder(settings.data_dir, done).exists()
    with database.session() as session:
        assert session.scalars(select(Checkpoint.job_id)).all() == [lost]
        assert session.scalars(select(IdempotencyKey.key)).all() == [lost]


@pytest.mark.parametrize("loop", [dispatcher.run_forever, reaper.run_forever])
def test_loops_survive_a_database_without_tables(loop: object, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"data_dir": tmp_path, "broker_url": NOBODY, "dispatch_seconds": 0.01, "reap_seconds": 0.01}
    )
    stop = threading.Event()
    thread = threading.Thread(target=loop, args=(stop, settings))  # type: ignore[arg-type]
    thread.start()
    wait_until(lambda: (tmp_path / "axforge.db").exists())
    assert thread.is_alive()
    stop.set()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_the_embedded_stack_runs_a_job_to_its_end(tmp_path: Path) -> None:
    settings = Settings.model_validate({"heartbeat_seconds": 0.2, "dispatch_seconds": 0.2})
    with stack(tmp_path / "data", settings) as ours:
        with pytest.raises(FolderInUse), stack(tmp_path / "data"):
            pass
        database = Database(ours.database)
        job_id = create(database, base_model={"upload": "upl_" + "0" * 28})
        assert ours.broker is not None
        assert ours.broker.startswith("redis+socket:")
        wait_until(lambda: load(database, job_id).done, 60)
        error = load(database, job_id).error
        database.close()
    assert error is not None
    assert (error["code"], error["pointer"]) == ("source_unavailable", "/base_model/upload")
