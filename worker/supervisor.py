"""Claims a job, runs it in a process of its own, and keeps the job's row true meanwhile.

The supervisor computes nothing: it extends the lease, passes on what the user and the operator
ask for, and settles the row if the run could not do so itself. Imports no torch.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from secrets import token_hex

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models import lifecycle, telemetry
from models.database import Database
from models.job import Job, JobStatus
from models.lifecycle import ClaimedJob, JobError, Lease, LeaseLost
from models.settings import Settings
from models.shards import ClaimedShard
from worker import workfolder
from worker.devices import devices_served
from worker.helping import help_a_job, helper_command
from worker.watch import EXIT_STOPPED, EXIT_UNAVAILABLE, Reason, watched

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
OUTAGE_ATTEMPTS = 12  # about three quarters of an hour with the waiting times between them
REQUEST_ID_VARIABLE = "AXFORGE_RUN_REQUEST_ID"

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
    help_command: Callable[[ClaimedShard], list[str]] = helper_command

    def run_next(self) -> str | None:
        """Claim the next job and see it through; without one, help with another worker's.

        Returns the job's id, or None if there was nothing to do.
        """
        if self.stopping():
            return None
        workfolder.sweep(self.database, self.settings.data_dir)
        with self.database.transaction() as session:
            job = lifecycle.claim(
                session,
                worker_name(),
                self.settings.lease_seconds,
                running_limit=self.settings.quota_running_jobs,
                compute_minutes=self.settings.quota_compute_minutes,
                devices=devices_served(self.settings.worker_devices),
            )
        if job is None:
            return self._help()
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

    def _help(self) -> str | None:
        holder = f"{worker_name()}:{token_hex(4)}"
        return help_a_job(self.database, self.settings, self.stopping, holder, self.help_command)

    def _see_through(self, job: ClaimedJob) -> None:
        log.info("run_started")
        code, reason = watched(
            self.command(job),
            self._origin(job),
            self.settings,
            stopping=self.stopping,
            beat=lambda: self._beat(job),
        )
        log.info("run_ended", exit_code=code, reason=reason)
        if reason != "lost":
            self._settle(job, code, reason)

    def _beat(self, job: ClaimedJob) -> Lease:
        with self.database.transaction() as session:
            return lifecycle.heartbeat(session, job.id, job.attempt, self.settings.lease_seconds)

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
