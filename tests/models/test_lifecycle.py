from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from models import journal, lifecycle, queue
from models.base import utc_now
from models.database import Database
from models.job import TERMINAL, TRANSITIONS, Job, JobStatus
from models.lifecycle import ClaimedJob, Delivery, JobError, LeaseLost
from models.spec import Candidate, CandidateMeasurements, JobSpec, Recipe
from models.tables import Artifact, CandidateRow, Checkpoint, Event

BROKEN = JobError(code="broken", detail="It broke.", remedy="Mend it.", pointer="/dataset")
FILE = Delivery("model.onnx", 3, "0" * 64, "application/octet-stream")


def create(database: Database, spec: JobSpec, **options: object) -> str:
    with database.transaction() as session:
        return lifecycle.create(session, spec, **options).id  # type: ignore[arg-type]


def claim_all(url: str) -> list[str]:
    """Runs in a process of its own: claims until nothing is left."""
    database = Database(url)
    taken = []
    while True:
        with database.transaction() as session:
            claimed = lifecycle.claim(session, str(os.getpid()), 60)
        if claimed is None:
            database.close()
            return taken
        taken.append(claimed.id)


def claim(database: Database, worker: str = "w1") -> ClaimedJob:
    with database.transaction() as session:
        claimed = lifecycle.claim(session, worker, 60)
    assert claimed is not None
    return claimed


def load(database: Database, job_id: str) -> Job:
    with database.session() as session:
        return session.get_one(Job, job_id)


def events(database: Database, job_id: str) -> list[str]:
    with database.session() as session:
        return list(session.scalars(select(Event.type).where(Event.job_id == job_id).order_by(Event.id)))


def expire(database: Database, job_id: str) -> None:
    with database.transaction() as session:
        session.execute(
            update(Job).where(Job.id == job_id).values(lease_until=utc_now() - timedelta(seconds=1))
        )


def make_available(database: Database) -> None:
    with database.transaction() as session:
        session.execute(update(Job).values(available_at=utc_now() - timedelta(seconds=1)))


def candidate(number: int, reason: str = "smaller") -> Candidate:
    return Candidate(
        number=number,
        stage="search",
        recipe=Recipe(),
        measurements=CandidateMeasurements(parameters=1, macs=2, size_bytes=3),
        accepted=True,
        reason=reason,
    )


def test_the_happy_life(database: Database, spec: JobSpec) -> None:
    job_id = create(database, spec)
    claimed = claim(database)
    assert (claimed.id, claimed.attempt) == (job_id, 1)
    assert JobSpec.model_validate(claimed.spec) == spec
    with database.transaction() as session:
        journal.write_progress(session, job_id, 1, {"stage": "prepare", "fraction": 0.1})
        journal.add_event(session, job_id, 1, type="columns.guessed", message="text, label")
        journal.upsert_candidate(session, job_id, 1, candidate(0))
        journal.save_checkpoint(session, job_id, 1, "prepare/done.json", sha256="1" * 64, size=2)
    with database.transaction() as session:
        lifecycle.succeed(
            session, job_id, 1, result={"met": True}, artifacts=[FILE], progress={"fraction": 1.0}
        )

    job = load(database, job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert job.done
    assert job.result == {"met": True}
    assert job.metadata_ == {"team": "x"}
    assert job.finished_at is not None
    assert job.finished_at.tzinfo is not None
    assert job.version == 7  # created, claimed, four writes of the run, succeeded
    assert events(database, job_id) == ["job.created", "job.started", "columns.guessed", "job.succeeded"]
    with database.session() as session:
        assert session.scalars(select(Artifact.name)).all() == ["model.onnx"]
        assert session.scalars(select(CandidateRow.number)).all() == [0]
        assert [one.name for one in journal.checkpoints(session, job_id)] == ["prepare/done.json"]


def test_every_terminal_status_is_final(database: Database, spec: JobSpec) -> None:
    assert {status for status in JobStatus if not TRANSITIONS[status]} == TERMINAL
    job_id = create(database, spec)
    claim(database)
    with database.transaction() as session:
        lifecycle.fail(session, job_id, 1, BROKEN)
    with pytest.raises(LeaseLost), database.transaction() as session:
        lifecycle.succeed(session, job_id, 1, result={}, artifacts=[], progress={})
    with database.transaction() as session:
        job = lifecycle.request_cancel(session, job_id)
        assert lifecycle.claim_one(session, job_id, "w2", 60) is None
    assert job is not None
    assert load(database, job_id).status is JobStatus.FAILED
    assert load(database, job_id).error == BROKEN.document()


def test_zombie_writes_are_refused(database: Database, spec: JobSpec) -> None:
    job_id = create(database, spec)
    claim(database)
    expire(database, job_id)
    with database.transaction() as session:
        assert lifecycle.requeue_expired(session, 3).queued == [job_id]
    make_available(database)
    assert claim(database, "w2").attempt == 2

    writes = [
        lambda session: journal.write_progress(session, job_id, 1, {}),
        lambda session: journal.add_event(session, job_id, 1, type="x", message="x"),
        lambda session: journal.upsert_candidate(session, job_id, 1, candidate(0)),
        lambda session: journal.save_checkpoint(session, job_id, 1, "a", sha256="0", size=1),
        lambda session: lifecycle.succeed(session, job_id, 1, result={}, artifacts=[FILE], progress={}),
        lambda session: lifecycle.fail(session, job_id, 1, BROKEN),
        lambda session: lifecycle.cancel_run(session, job_id, 1),
        lambda session: lifecycle.release(session, job_id, 1, message="stop"),
        lambda session: lifecycle.run_died(
            session, job_id, 1, out_of_memory=False, max_attempts=3, error=BROKEN
        ),
    ]
    for write in writes:
        with pytest.raises(LeaseLost), database.transaction() as session:
            write(session)
    with database.transaction() as session:
        assert not lifecycle.heartbeat(session, job_id, 1, 60).held
        assert lifecycle.heartbeat(session, job_id, 2, 60).held
    with database.session() as session:
        for table in (Artifact, CandidateRow, Checkpoint):
            assert session.scalar(select(func.count()).select_from(table)) == 0
    assert load(database, job_id).status is JobStatus.RUNNING


def test_concurrent_claims_take_each_job_once(database: Database, spec: JobSpec) -> None:
    wanted = {create(database, spec) for _ in range(20)}
    start = threading.Barrier(8)

    def work(number: int) -> list[str]:
        start.wait(timeout=30)
        taken = []
        while True:
            with database.transaction() as session:
                claimed = lifecycle.claim(session, f"w{number}", 60)
            if claimed is None:
                return taken
            taken.append(claimed.id)

    with ThreadPoolExecutor(8) as pool:
        taken = [job_id for jobs in pool.map(work, range(8)) for job_id in jobs]
    assert len(taken) == 20
    assert set(taken) == wanted


def test_processes_take_each_job_once(database: Database, database_url: str, spec: JobSpec) -> None:
    wanted = {create(database, spec) for _ in range(30)}
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        taken = [job_id for jobs in pool.map(claim_all, [database_url] * 3) for job_id in jobs]
    assert len(taken) == 30
    assert set(taken) == wanted


def test_one_job_is_claimed_once_by_many(database: Database, spec: JobSpec) -> None:
    job_id = create(database, spec)
    start = threading.Barrier(6)

    def work(number: int) -> bool:
        start.wait(timeout=30)
        with database.transaction() as session:
            return lifecycle.claim_one(session, job_id, f"w{number}", 60) is not None

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(6))) == 1


def test_order_priority_and_fairness(database: Database, spec: JobSpec) -> None:
    first = create(database, spec, tenant="a")
    second = create(database, spec, tenant="a")
    other = create(database, spec, tenant="b")
    urgent = create(database, spec, tenant="a", priority=5)
    assert [claim(database).id for _ in range(4)] == [urgent, other, first, second]


def test_heartbeat_extends_the_lease_and_tells_of_cancel(database: Database, spec: JobSpec) -> None:
    job_id = create(database, spec)
    claim(database)
    expire(database, job_id)
    with database.transaction() as session:
        lease = lifecycle.heartbeat(session, job_id, 1, 60)
        assert lease.held
        assert not lease.cancel_requested
        assert lifecycle.requeue_expired(session, 3).queued == []
        asked = lifecycle.request_cancel(session, job_id)
        assert asked is not None
        assert asked.cancel_requested
        assert lifecycle.heartbeat(session, job_id, 1, 60).cancel_requested
        assert journal.write_progress(session, job_id, 1, {})
        lifecycle.cancel_run(session, job_id, 1)
    assert load(database, job_id).status is JobStatus.CANCELLED
    assert events(database, job_id)[-2:] == ["job.cancel_requested", "job.cancelled"]


def test_a_worker_takes_the_jobs_of_its_devices(database: Database, spec: JobSpec) -> None:
    on_gpu = spec.model_copy(update={"target": spec.target.model_copy(update={"device": "cuda"})})
    first, second, third = create(database, on_gpu), create(database, spec), create(database, spec)

    def taken(*devices: str) -> str | None:
        with database.transaction() as session:
            claimed = lifecycle.claim(session, "w", 60, devices=devices)
        return None if claimed is None else claimed.id

    assert taken("cpu") == second
    assert taken("cpu", "cuda") == first, "the oldest of both queues"
    assert taken("cuda") is None
    assert taken() is None
    with database.session() as session:
        assert queue.claimable(session) == 1
    assert taken("cuda", "cpu") == third


def test_cancel_of_a_queued_job_is_at_once_and_once(database: Database, spec: JobSpec) -> None:
    job_id = create(database, spec)
    with database.transaction() as session:
        assert lifecycle.request_cancel(session, job_id, tenant="other") is None
        job = lifecycle.request_cancel(session, job_id)
        assert job is not None
        assert job.status is JobStatus.CANCELLED
    version = load(database, job_id).version
    with database.transaction() as session:
        lifecycle.request_cancel(session, job_id)
        assert lifecycle.claim(session, "w", 60) is None
    assert load(database, job_id).version == version


def test_lost_workers_back_off_then_fail(database: Database, spec: JobSpec) -> None:
    job_id = create(database, spec)
    waits = []
    for _ in range(2):
        claim(database)
        expire(database, job_id)
        before = utc_now()
        with database.transaction() as session:
            assert lifecycle.requeue_expired(session, 3).queued == [job_id]
            assert lifecycle.claim(session, "w", 60) is None  # not before its time
            assert queue.claimable(session) == 0
        waits.append((load(database, job_id).available_at - before).total_seconds())
        make_available(database)
    assert waits == pytest.approx([3, 6], abs=2)
    claim(database)
    expire(database, job_id)
    with database.transaction() as session:
        assert lifecycle.requeue_expired(session, 3).failed == [job_id]
    error = load(database, job_id).error
    assert error is not None
    assert (error["code"], error["retryable"]) == ("worker_lost", True)


def test_memory_kills_fail_at_the_second(database: Database, spec: JobSpec) -> None:
    job_id = create(database, spec)
    outcomes = []
    for attempt in (1, 2):
        claim(database)
        with database.transaction() as session:
            outcomes.append(
                lifecycle.run_died(session, job_id, attempt, out_of_memory=True, max_attempts=3, error=BROKEN)
            )
        make_available(database)
    assert outcomes == [JobStatus.QUEUED, JobStatus.FAILED]


def test_orderly_stops_use_up_no_chances(database: Database, spec: JobSpec) -> None:
    job_id = create(database, spec)
    for attempt in range(1, 6):
        assert claim(database).attempt == attempt
        with database.transaction() as session:
            assert lifecycle.release(session, job_id, attempt, message="shutdown") is JobStatus.QUEUED
    assert load(database, job_id).losses == 0


@pytest.mark.parametrize("how", ["release", "died", "expired"])
def test_a_run_that_ends_after_cancel_is_cancelled(database: Database, spec: JobSpec, how: str) -> None:
    job_id = create(database, spec)
    claim(database)
    with database.transaction() as session:
        lifecycle.request_cancel(session, job_id)
    expire(database, job_id)
    with database.transaction() as session:
        if how == "release":
            lifecycle.release(session, job_id, 1, message="stop")
        elif how == "died":
            lifecycle.run_died(session, job_id, 1, out_of_memory=False, max_attempts=1, error=BROKEN)
        else:
            assert lifecycle.requeue_expired(session, 3).cancelled == [job_id]
    assert load(database, job_id).status is JobStatus.CANCELLED


def test_a_resumed_run_writes_a_candidate_again(database: Database, spec: JobSpec) -> None:
    job_id = create(database, spec)
    claim(database)
    with database.transaction() as session:
        journal.upsert_candidate(session, job_id, 1, candidate(0, "first"))
        lifecycle.release(session, job_id, 1, message="stop")
    claim(database)
    with database.transaction() as session:
        journal.upsert_candidate(session, job_id, 2, candidate(0, "again"))
    with database.session() as session:
        row = session.scalars(select(CandidateRow)).one()
    assert (row.reason, row.attempt) == ("again", 2)


def test_nothing_is_kept_of_a_failed_transaction(database: Database, spec: JobSpec) -> None:
    def create_and_fail() -> None:
        with database.transaction() as session:
            lifecycle.create(session, spec)
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        create_and_fail()
    with database.session() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
        assert session.scalar(select(func.count()).select_from(Event)) == 0
