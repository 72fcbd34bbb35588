"""Random lives of jobs against a model of a few lines: the table of moves is all there is.

Every statement of `models.lifecycle` is called with the number of the run that holds the job and with
those of runs that hold it no longer; a write of the latter must change nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from models import journal, lifecycle, queue
from models.base import utc_now
from models.database import Database
from models.job import TERMINAL, TRANSITIONS, Job, JobStatus
from models.lifecycle import MAX_MEMORY_LOSSES, Delivery, JobError, LeaseLost
from models.spec import JobSpec
from models.tables import Artifact, Base, Event

SPEC = JobSpec.model_validate({"base_model": {"hub": "a/b"}, "dataset": {"hub": "c/d"}})
BROKEN = JobError(code="broken", detail="It broke.", remedy="Mend it.")
NO_MEMORY = JobError(code="no_memory", detail="It was killed.", remedy="Buy some.")
FILE = Delivery("model.onnx", 3, "0" * 64, "application/octet-stream")
ENDS = [f"job.{status.value}" for status in TERMINAL]
PAST = timedelta(seconds=5)

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = JobStatus


@dataclass
class Expected:
    """What the row of a job must say."""

    status: JobStatus = QUEUED
    attempt: int = 0
    losses: int = 0
    memory_losses: int = 0
    cancel_requested: bool = False
    available: bool = True
    expired: bool = False

    def holds(self, attempt: int) -> bool:
        return self.status is RUNNING and self.attempt == attempt

    def claim(self) -> None:
        self.status, self.attempt, self.expired = RUNNING, self.attempt + 1, False

    def give_back(self, *, losses: int, available: bool) -> None:
        if self.cancel_requested:
            self.status = CANCELLED
        else:
            self.status, self.losses, self.available = QUEUED, self.losses + losses, available

    def die(self, most: int, *, memory: bool = False) -> None:
        self.memory_losses += memory
        if self.losses + 1 < most and not (memory and self.memory_losses >= MAX_MEMORY_LOSSES):
            self.give_back(losses=1, available=False)
        else:
            self.status = CANCELLED if self.cancel_requested else FAILED


class Lives(RuleBasedStateMachine):
    """Jobs and the runs that hold or held them: a run is a job's id and an attempt's number."""

    database: Database
    jobs = Bundle("jobs")
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[str, Expected] = {}
        self.seen: dict[str, tuple[JobStatus, int, int]] = {}
        with self.database.transaction() as session:
            session.execute(delete(Job))

    @rule(target=jobs, priority=st.integers(0, 1), tenant=st.sampled_from(["a", "b"]))
    def create(self, priority: int, tenant: str) -> str:
        with self.database.transaction() as session:
            job_id = lifecycle.create(session, SPEC, tenant=tenant, priority=priority).id
        self.expected[job_id] = Expected()
        return job_id

    @rule(target=runs)
    def claim(self) -> tuple[str, int]:
        waiting = {id for id, job in self.expected.items() if job.status is QUEUED and job.available}
        with self.database.transaction() as session:
            assert queue.claimable(session) == len(waiting)
            claimed = lifecycle.claim(session, "w", 60)
        if claimed is None:
            assert not waiting
            return "none", 1
        assert claimed.id in waiting
        self.expected[claimed.id].claim()
        return claimed.id, claimed.attempt

    @rule(target=runs, job_id=jobs)
    def claim_one(self, job_id: str) -> tuple[str, int]:
        job = self.expected[job_id]
        with self.database.transaction() as session:
            claimed = lifecycle.claim_one(session, job_id, "w", 60)
        assert (claimed is not None) is (job.status is QUEUED and job.available)
        if claimed is not None:
            job.claim()
        return job_id, job.attempt

    @rule(run=runs)
    def heartbeat(self, run: tuple[str, int]) -> None:
        job = self.expected.get(run[0], Expected())
        with self.database.transaction() as session:
            lease = lifecycle.heartbeat(session, *run, 60)
        assert lease.held is job.holds(run[1])
        assert lease.cancel_requested is (job.holds(run[1]) and job.cancel_requested)
        if lease.held:
            job.expired = False

    @rule(run=runs)
    def touch(self, run: tuple[str, int]) -> None:
        self._as_run(run, lambda session: journal.write_progress(session, *run, {}), lambda job: None)

    @rule(run=runs)
    def succeed(self, run: tuple[str, int]) -> None:
        self._end(
            run,
            SUCCEEDED,
            lambda session: lifecycle.succeed(session, *run, result={}, artifacts=[FILE], progress={}),
        )

    @rule(run=runs)
    def fail(self, run: tuple[str, int]) -> None:
        self._end(run, FAILED, lambda session: lifecycle.fail(session, *run, BROKEN))

    @rule(run=runs)
    def cancel_run(self, run: tuple[str, int]) -> None:
        self._end(run, CANCELLED, lambda session: lifecycle.cancel_run(session, *run))

    @rule(run=runs, delay=st.sampled_from([0.0, 60.0]))
    def release(self, run: tuple[str, int], delay: float) -> None:
        self._as_run(
            run,
            lambda session: lifecycle.release(session, *run, message="stop", delay_seconds=delay),
            lambda job: job.give_back(losses=0, available=not delay),
        )

    @rule(run=runs, memory=st.booleans(), most=st.integers(1, 4))
    def run_died(self, run: tuple[str, int], memory: bool, most: int) -> None:
        self._as_run(
            run,
            lambda session: lifecycle.run_died(
                session, *run, out_of_memory=memory, max_attempts=most, error=NO_MEMORY if memory else BROKEN
            ),
            lambda job: job.die(most, memory=memory),
        )

    @rule(job_id=jobs)
    def request_cancel(self, job_id: str) -> None:
        job = self.expected[job_id]
        with self.database.transaction() as session:
            tenant = session.get_one(Job, job_id).tenant
            lifecycle.request_cancel(session, job_id, tenant=tenant)
        if job.status in (QUEUED, RUNNING):
            job.cancel_requested = True
        if job.status is QUEUED:
            job.status = CANCELLED

    @rule(job_id=jobs)
    def fall_silent(self, job_id: str) -> None:
        """The clock passes the end of a lease."""
        self._set(Job.id == job_id, Job.status == RUNNING, lease_until=utc_now() - PAST)
        self.expected[job_id].expired = True

    @rule(most=st.integers(1, 4))
    def reap(self, most: int) -> None:
        silent = {id: job for id, job in self.expected.items() if job.status is RUNNING and job.expired}
        with self.database.transaction() as session:
            done = lifecycle.requeue_expired(session, most)
        for job in silent.values():
            job.die(most)
        assert set(done.queued) == {id for id, job in silent.items() if job.status is QUEUED}
        assert set(done.failed) == {id for id, job in silent.items() if job.status is FAILED}
        assert set(done.cancelled) == {id for id, job in silent.items() if job.status is CANCELLED}

    @rule()
    def wait(self) -> None:
        """The clock passes all times before which a job may not be tried again."""
        self._set(Job.status == QUEUED, available_at=utc_now() - PAST)
        for job in self.expected.values():
            job.available = job.available or job.status is QUEUED

    @invariant()
    def rows_say_what_is_expected(self) -> None:
        with self.database.session() as session:
            rows = {row.id: row for row in session.scalars(select(Job))}
            ends = _count(session, Event, Event.type.in_(ENDS))
            files = _count(session, Artifact)
        assert rows.keys() == self.expected.keys()
        for job_id, job in self.expected.items():
            row = rows[job_id]
            assert (row.status, row.attempt, row.losses, row.cancel_requested) == (
                *(job.status, job.attempt, job.losses, job.cancel_requested),
            )
            assert (row.lease_until is not None) is (row.status is RUNNING)
            assert (row.finished_at is not None) is row.done
            assert ends.get(job_id, 0) == row.done
            assert files.get(job_id, 0) == (row.status is SUCCEEDED)
            self._only_moves_of_the_table(row)

    def _only_moves_of_the_table(self, row: Job) -> None:
        status, attempt, version = self.seen.get(row.id, (QUEUED, 0, 1))
        assert row.status is status or row.status in TRANSITIONS[status]
        assert row.attempt - attempt in (0, 1)
        assert row.version >= version
        if status in TERMINAL:
            assert (row.attempt, row.version) == (attempt, version)
        self.seen[row.id] = row.status, row.attempt, row.version

    def _end(self, run: tuple[str, int], status: JobStatus, write: Callable[[Session], object]) -> None:
        def ended(job: Expected) -> None:
            job.status = status

        self._as_run(run, write, ended)

    def _as_run(
        self, run: tuple[str, int], write: Callable[[Session], object], then: Callable[[Expected], None]
    ) -> None:
        """A guarded write: done if the run holds the job, refused if not."""
        job = self.expected.get(run[0], Expected())
        refused = contextlib.nullcontext() if job.holds(run[1]) else pytest.raises(LeaseLost)
        with refused, self.database.transaction() as session:
            write(session)
        if job.holds(run[1]):
            then(job)

    def _set(self, *conditions: Any, **values: Any) -> None:
        with self.database.transaction() as session:
            session.execute(update(Job).where(*conditions).values(**values))


def test_the_table_of_moves_is_all_there_is(database: Database, tmp_path: Path) -> None:
    Base.metadata.create_all(database.engine)
    machine = type("LivesHere", (Lives,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def _count(session: Session, table: type[Event] | type[Artifact], *conditions: Any) -> dict[str, int]:
    counted = select(table.job_id, func.count()).where(*conditions).group_by(table.job_id)
    return {row[0]: row[1] for row in session.execute(counted)}
