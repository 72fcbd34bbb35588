"""Claims a job, runs it in a process of its own, and keeps the job's row true meanwhile.

The supervisor computes nothing: it extends the lease, passes on what the user and the operator
ask for, and settles the row if the run could not do so itself. Imports no torch.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog
from sqlalchemy.exc import DBAPIError

from models import lifecycle
from models.database import Database
from models.job import Job, JobStatus
from models.lifecycle import ClaimedJob, JobError, LeaseLost
from models.settings import Settings
from worker import workfolder
from worker.leash import leashed

EXIT_DONE = 0
EXIT_STOPPED = 75  # EX_TEMPFAIL: checkpointed, to be gone on with
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
POLL_SECONDS = 0.2
LOST_GRACE_SECONDS = 5.0  # a run that wrote its end an instant ago may leave by itself

Reason = Literal["cancel", "shutdown", "lost"]
log = structlog.get_logger(__name__)


OUT_OF_MEMORY = JobError(
    code="out_of_memory",
    detail="The run was killed, most likely because the worker has too little memory for it.",
    remedy="Use a smaller baseline.batch_size or max_length, a smaller model, or a worker with more memory.",
    pointer="/baseline/batch_size",
    retryable=True,
)
WORKER_CRASHED = JobError(
    code="worker_crashed",
    detail="The run ended without an answer.",
    remedy="Submit the job again; if it happens again, give its id to the operator, who has the logs.",
    retryable=True,
)


def runner_command(job: ClaimedJob) -> list[str]:
    """The process that does the work."""
    return [sys.executable, "-m", "worker.runner", job.id, str(job.attempt)]


def worker_name() -> str:
    """How this worker is called in the job's row."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass
class Supervisor:
    """One job at a time. `stopping` is asked often: true means hand the job back and leave."""

    database: Database
    settings: Settings
    stopping: Callable[[], bool]
    command: Callable[[ClaimedJob], list[str]] = runner_command

    def run_next(self) -> str | None:
        """Claim the next job and see it through. Returns its id, or None if there was none."""
        if self.stopping():
            return None
        workfolder.sweep(self.database, self.settings.data_dir)
        with self.database.transaction() as session:
            job = lifecycle.claim(session, worker_name(), self.settings.lease_seconds)
        if job is None:
            return None
        with structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt):
            self._see_through(job)
        workfolder.sweep(self.database, self.settings.data_dir)
        return job.id

    def _see_through(self, job: ClaimedJob) -> None:
        log.info("run_started")
        process = subprocess.Popen(
            leashed(self.command(job), signal.SIGKILL),
            env=os.environ | self.settings.environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # signals for the worker's group reach the run through us only
        )
        try:
            reason = _Watch(self, job, process).until_exit()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        log.info("run_ended", exit_code=process.returncode, reason=reason)
        if reason != "lost":
            self._settle(job, process.returncode, reason)

    def _settle(self, job: ClaimedJob, code: int, reason: Reason | None) -> None:
        """Write what the run could not. Retried for a lease's time: after that the reaper has the job."""
        deadline = time.monotonic() + self.settings.lease_seconds
        while True:
            try:
                self._write_outcome(job, code, reason)
                return
            except LeaseLost:
                log.info("run_no_longer_ours")
                return
            except DBAPIError as error:
                if time.monotonic() > deadline:
                    log.error("outcome_not_written", reason=type(error.orig).__name__)
                    return
                threading.Event().wait(1.0)

    def _write_outcome(self, job: ClaimedJob, code: int, reason: Reason | None) -> None:
        with self.database.transaction() as session:
            row = session.get_one(Job, job.id)
            if row.status is not JobStatus.RUNNING or row.attempt != job.attempt:
                return  # the run wrote its end itself
            if reason == "cancel":
                lifecycle.cancel_run(session, job.id, job.attempt)
            elif code == EXIT_STOPPED or reason == "shutdown":
                message = "The worker shuts down; the job goes on from its last checkpoint."
                lifecycle.release(session, job.id, job.attempt, message=message)
            else:
                memory = code in KILLED
                lifecycle.run_died(
                    session,
                    job.id,
                    job.attempt,
                    out_of_memory=memory,
                    max_attempts=self.settings.max_attempts,
                    error=OUT_OF_MEMORY if memory else WORKER_CRASHED,
                )


class _Watch:
    """Waits for a run's process, heart beating, and stops it when there is a reason to."""

    def __init__(self, supervisor: Supervisor, job: ClaimedJob, process: subprocess.Popen[bytes]) -> None:
        self._supervisor = supervisor
        self._settings = supervisor.settings
        self._job = job
        self._process = process
        self._reason: Reason | None = None
        self._kill_at = float("inf")
        self._beat_at = time.monotonic() + self._settings.heartbeat_seconds
        self._lease_until = time.monotonic() + self._settings.lease_seconds

    def until_exit(self) -> Reason | None:
        """Returns why the run was told to stop, or None if it ended by itself."""
        while True:
            try:
                self._process.wait(timeout=POLL_SECONDS)
                return self._reason
            except subprocess.TimeoutExpired:
                self._look()

    def _look(self) -> None:
        moment = time.monotonic()
        if moment >= self._beat_at:
            self._beat()
        if self._supervisor.stopping():
            self._stop("shutdown")
        if moment >= self._kill_at:
            self._process.kill()

    def _beat(self) -> None:
        self._beat_at = time.monotonic() + self._settings.heartbeat_seconds
        sent = time.monotonic()
        try:
            with self._supervisor.database.transaction() as session:
                lease = lifecycle.heartbeat(
                    session, self._job.id, self._job.attempt, self._settings.lease_seconds
                )
        except DBAPIError as error:
            log.warning("heartbeat_failed", reason=type(error.orig).__name__)
            if time.monotonic() >= self._lease_until:
                self._stop("lost")
            return
        if not lease.held:
            self._stop("lost")
            return
        self._lease_until = sent + self._settings.lease_seconds
        if lease.cancel_requested:
            self._stop("cancel")

    def _stop(self, reason: Reason) -> None:
        if self._reason in (reason, "lost"):
            return
        grace = LOST_GRACE_SECONDS if reason == "lost" else self._settings.stop_grace_seconds
        self._kill_at = min(self._kill_at, time.monotonic() + grace)
        # Cancelled stays cancelled when the worker shuts down as well.
        if self._reason != "cancel" or reason == "lost":
            self._reason = reason
        self._process.terminate()
