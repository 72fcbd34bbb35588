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
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models import lifecycle, telemetry
from models.database import Database
from models.job import Job, JobStatus
from models.lifecycle import ClaimedJob, JobError, LeaseLost
from models.settings import Settings
from worker import workfolder
from worker.devices import devices_served
from worker.leash import leashed
from worker.relay import relaying

EXIT_DONE = 0
EXIT_STOPPED = 75  # EX_TEMPFAIL: checkpointed, to be gone on with
EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE: a service that the run needs does not answer
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
OUTAGE_ATTEMPTS = 12  # about three quarters of an hour with the waiting times between them
POLL_SECONDS = 0.2
REQUEST_ID_VARIABLE = "AXFORGE_RUN_REQUEST_ID"
LOST_GRACE_SECONDS = 5.0  # a run that wrote its end an instant ago may leave by itself

Reason = Literal["cancel", "shutdown", "lost"]
log = structlog.get_logger(__name__)


OUT_OF_MEMORY = JobError(
    code="out_of_memory",
    detail="The run was ended, most likely because the worker has too little memory for it.",
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
SERVICE_UNAVAILABLE = JobError(
    code="service_unavailable",
    detail="The database or the object store did not answer the run.",
    remedy="Submit the job again when the service is well (GET /readyz).",
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
            job = lifecycle.claim(
                session,
                worker_name(),
                self.settings.lease_seconds,
                running_limit=self.settings.quota_running_jobs,
                devices=devices_served(self.settings.worker_devices),
            )
        if job is None:
            return None
        origin = {} if job.request_id is None else {"request_id": job.request_id}
        with (
            structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt, **origin),
            telemetry.span(
                "job.supervise",
                parent=job.trace_context or {},
                kind="consumer",
                axforge__job_id=job.id,
                axforge__attempt=job.attempt,
            ),
        ):
            self._see_through(job)
        workfolder.sweep(self.database, self.settings.data_dir)
        return job.id

    def _see_through(self, job: ClaimedJob) -> None:
        log.info("run_started")
        process = subprocess.Popen(
            leashed(self.command(job), signal.SIGKILL),
            env=os.environ | self.settings.environment() | self._origin(job),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # signals for the worker's group reach the run through us only
        )
        with relaying(process):
            try:
                reason = _Watch(self, job, process).until_exit()
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
        log.info("run_ended", exit_code=process.returncode, reason=reason)
        if reason != "lost":
            self._settle(job, process.returncode, reason)

    @staticmethod
    def _origin(job: ClaimedJob) -> dict[str, str]:
        """What ties the run's logs and spans to the request that created the job."""
        request = {} if job.request_id is None else {REQUEST_ID_VARIABLE: job.request_id}
        return telemetry.environment() | request

    def _settle(self, job: ClaimedJob, code: int, reason: Reason | None) -> None:
        """Write what the run could not. Retried for a lease's time: after that the reaper has the job."""

        def write(session: Session) -> None:
            self._write_outcome(session, job, code, reason)

        try:
            self.database.patiently(write, self.settings.lease_seconds)
        except LeaseLost:
            log.info("run_no_longer_ours")
        except DBAPIError as error:
            log.error("outcome_not_written", reason=type(error.orig).__name__)

    def _write_outcome(self, session: Session, job: ClaimedJob, code: int, reason: Reason | None) -> None:
        row = session.get_one(Job, job.id)
        if row.status is not JobStatus.RUNNING or row.attempt != job.attempt:
            return  # the run wrote its end itself
        if reason == "cancel":
            lifecycle.cancel_run(session, job.id, job.attempt)
        elif code == EXIT_STOPPED or reason == "shutdown":
            message = "The worker shuts down; the job goes on from its last checkpoint."
            lifecycle.release(session, job.id, job.attempt, message=message)
        else:
            most = self.settings.max_attempts
            lifecycle.run_died(
                session,
                job.id,
                job.attempt,
                out_of_memory=code in KILLED,
                max_attempts=max(most, OUTAGE_ATTEMPTS) if code == EXIT_UNAVAILABLE else most,
                error=_cause(code),
            )


def _cause(code: int) -> JobError:
    """What an exit code says about why a run ended without an answer."""
    if code in KILLED:
        return OUT_OF_MEMORY
    if code == EXIT_UNAVAILABLE:
        return SERVICE_UNAVAILABLE
    if code < 0:
        return replace(WORKER_CRASHED, detail=f"The run was ended by {signal.Signals(-code).name}.")
    return WORKER_CRASHED


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
