"""`python -m worker.runner JOB ATTEMPT`: the process that does the work of one attempt.

Exit codes: 0 the job's end is written; 75 stopped in order, to be gone on with; 69 the database or the
store did not answer; 137 out of memory; anything else is a crash. Unless it is 0, nothing was written and
the supervisor has to settle the row.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog
from sqlalchemy.orm import Session

from models import blobs, lifecycle, telemetry
from models.blobs import BlobLost
from models.database import UNANSWERED, Database
from models.job import Job, JobStatus
from models.lifecycle import Delivery, JobError, LeaseLost
from models.logs import configure
from models.settings import Settings
from models.spec import Certificate, JobSpec
from models.store import Store, StoreError, StoreFull, open_store
from worker import progress
from worker.checkpoints import Checkpoints
from worker.crew import QueueCrew
from worker.engine.crew import Crew
from worker.engine.errors import DiskFull, EngineError, SourceError, Stopped, is_disk_full
from worker.engine.memory import wanted_memory
from worker.engine.reporting import Reporter
from worker.exporting import ForeignState, origin_of
from worker.inputs import Inputs
from worker.reporter import DatabaseReporter
from worker.spans import StageSpans
from worker.supervisor import REQUEST_ID_VARIABLE
from worker.watch import EXIT_DONE, EXIT_STOPPED, EXIT_UNAVAILABLE
from worker.workfolder import work_folder

EXIT_OUT_OF_MEMORY = 128 + signal.SIGKILL
RETRYABLE = frozenset({SourceError.code, DiskFull.code})
log = structlog.get_logger(__name__)

DISK_FULL = JobError(
    code=DiskFull.code,
    detail="The worker or its store has no room left for the job's files.",
    remedy="Free space for the service's data, then submit the job again.",
    retryable=True,
)
INTERNAL_ERROR = JobError(
    code="internal_error",
    detail="The run failed in a way that it should not.",
    remedy="Give the job's id to the operator, who finds the reason in the worker's log.",
)


class ArtifactFile(Protocol):
    """A file that the engine hands over."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def media_type(self) -> str: ...


class RunResult(Protocol):
    """What the engine hands over (`worker.engine.pipeline.RunResult`)."""

    @property
    def certificate(self) -> Certificate: ...
    @property
    def artifacts(self) -> Sequence[ArtifactFile]: ...


T = TypeVar("T")
Engine = Callable[[JobSpec, Path, Reporter, Crew], RunResult]


def run_job(settings: Settings, job_id: str, attempt: int, engine: Engine) -> int:
    """Do the attempt and write its end. Returns the exit code."""
    database = Database(settings.database)
    try:
        return _Attempt(settings, database, job_id, attempt).run(engine)
    finally:
        database.close()


class _Attempt:
    def __init__(self, settings: Settings, database: Database, job_id: str, attempt: int) -> None:
        self._settings = settings
        self._database = database
        self._job_id = job_id
        self._attempt = attempt
        self._folder = work_folder(settings.data_dir, job_id)

    def run(self, engine: Engine) -> int:
        """Errors that a user can mend end the job; trouble of the service leaves it to be tried again."""
        try:
            self._run(engine)
        except (Stopped, LeaseLost):
            log.info("run_stopped")
            return EXIT_STOPPED
        except EngineError as error:
            return self._fail(_typed(error))
        except StoreFull:
            return self._fail(DISK_FULL)
        except (*UNANSWERED, StoreError, BlobLost):
            log.exception("service_unavailable")
            return EXIT_UNAVAILABLE
        except Exception as error:
            log.exception("run_failed")
            if wanted_memory(error):
                return EXIT_OUT_OF_MEMORY
            return self._fail(DISK_FULL if is_disk_full(error) else INTERNAL_ERROR)
        return EXIT_DONE

    def _run(self, engine: Engine) -> None:
        job = self._load()
        store = open_store(self._settings.store, spool=self._settings.data_dir / "spool")
        checkpoints, spec = self._checkpoints(store), JobSpec.model_validate(job.spec)
        reporter = DatabaseReporter(self._database, self._job_id, self._attempt, checkpoints)
        signal.signal(signal.SIGTERM, lambda *_: reporter.stop())
        restored = checkpoints.restore()
        if restored:
            reporter.event("run.restored", "The run goes on from files of another machine.", files=restored)
        inputs = Inputs(self._database, store, self._settings, job.tenant, self._folder / "inputs")
        with StageSpans(reporter) as traced:
            crew = QueueCrew(
                self._database,
                self._settings,
                self._job_id,
                self._attempt,
                workers=spec.budget.max_workers,
                device=spec.target.device,
                check=traced.check,
            )
            # An export reads no sources again: what it needs of them is in the state.
            resolved = spec if isinstance(checkpoints, ForeignState) else inputs.resolve(spec)
            result = engine(resolved, checkpoints.folder, traced, crew)
        self._deliver(store, reporter, result, job.spec_digest)

    def _checkpoints(self, store: Store) -> Checkpoints:
        mine = self._database, store, self._job_id, self._attempt, self._folder
        origin = origin_of(self._database, self._job_id)
        return Checkpoints(*mine) if origin is None else ForeignState(*mine, origin)

    def _load(self) -> Job:
        job = self._patiently(lambda session: session.get(Job, self._job_id))
        if job is None or job.attempt != self._attempt or job.status is not JobStatus.RUNNING:
            raise LeaseLost(self._job_id)
        return job

    def _deliver(self, store: Store, reporter: DatabaseReporter, result: RunResult, digest: str) -> None:
        """Upload first, then everything visible in one guarded transaction.

        Raises:
            BlobLost: it took so long that the first files were cleared away as left behind.
        """
        certificate = result.certificate
        if certificate.spec_digest != digest:  # the engine saw local paths; the user wrote other sources
            certificate = certificate.model_copy(update={"spec_digest": digest})
            _rewrite_certificate(result, certificate)
        reserve = blobs.reserver(self._database, self._settings.blob_grace_hours)
        deliveries = [
            Delivery(file.name, blob.size, blob.sha256, file.media_type, blob.generation)
            for file in result.artifacts
            for blob in [store.put_file(file.path, reserve=reserve)]
        ]

        def succeed(session: Session) -> None:
            reporter.flush(session)
            lifecycle.succeed(
                session,
                self._job_id,
                self._attempt,
                result=summary(certificate),
                artifacts=deliveries,
                progress=progress.finished(),
                keep_days=self._settings.artifact_days,
            )

        self._patiently(succeed)

    def _fail(self, error: JobError) -> int:
        try:
            self._patiently(lambda session: lifecycle.fail(session, self._job_id, self._attempt, error))
        except LeaseLost:
            return EXIT_STOPPED
        except UNANSWERED:
            log.exception("error_not_written", code=error.code)
            return EXIT_UNAVAILABLE
        return EXIT_DONE

    def _patiently(self, write: Callable[[Session], T]) -> T:
        """For as long as the lease may last. A write that was done before raises LeaseLost."""
        return self._database.patiently(write, self._settings.lease_seconds)


def summary(certificate: Certificate) -> dict[str, Any]:
    """The certificate as it is shown inside the job; digests and versions are in the file."""
    return certificate.model_dump(mode="json", exclude={"artifacts", "versions", "recipe", "spread"})


def _rewrite_certificate(result: RunResult, certificate: Certificate) -> None:
    for file in result.artifacts:
        if file.name == "certificate.json":
            file.path.write_text(certificate.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _typed(error: EngineError) -> JobError:
    return JobError(error.code, error.message, error.remedy, error.pointer, error.code in RETRYABLE)


def _engine(spec: JobSpec, workdir: Path, reporter: Reporter, crew: Crew) -> RunResult:
    from worker.engine.pipeline import run  # loads torch, once the inputs are found to be there

    return run(spec, workdir, reporter, crew)


def main(job_id: str, attempt: int, engine: Engine = _engine) -> int:
    """Do the attempt as a process of its own: with logs, spans, and last words if it crashes."""
    settings = Settings()
    configure("runner", settings.log_level)
    faulthandler.enable()
    structlog.contextvars.bind_contextvars(job_id=job_id, attempt=attempt)
    if REQUEST_ID_VARIABLE in os.environ:
        structlog.contextvars.bind_contextvars(request_id=os.environ[REQUEST_ID_VARIABLE])
    with (
        telemetry.exporting("runner"),
        telemetry.span(
            "job.run",
            parent=telemetry.from_environment(),
            axforge__job_id=job_id,
            axforge__attempt=attempt,
        ),
    ):
        return run_job(settings, job_id, attempt, engine)


if __name__ == "__main__":
    _, given_job, given_attempt = sys.argv
    sys.exit(main(given_job, int(given_attempt)))
