"""`python -m worker.runner JOB ATTEMPT`: the process that does the work of one attempt.

Exit codes: 0 the job's end is written; 75 stopped in order, to be gone on with; anything else means
that nothing was written and the supervisor has to settle the row.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog
from sqlalchemy.exc import DBAPIError

from models import lifecycle
from models.database import Database
from models.job import Job, JobStatus
from models.lifecycle import Delivery, JobError, LeaseLost
from models.logs import configure
from models.settings import Settings
from models.spec import Certificate, JobSpec
from models.store import Store, StoreError, StoreFull, open_store
from worker import progress
from worker.checkpoints import Checkpoints
from worker.engine.errors import DiskFull, EngineError, SourceError, Stopped
from worker.engine.reporting import Reporter
from worker.inputs import Inputs
from worker.reporter import DatabaseReporter
from worker.supervisor import EXIT_DONE, EXIT_STOPPED
from worker.workfolder import work_folder

EXIT_UNWRITTEN = 1
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


Engine = Callable[[JobSpec, Path, Reporter], RunResult]


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
        except MemoryError:
            return EXIT_OUT_OF_MEMORY
        except EngineError as error:
            return self._fail(_typed(error))
        except StoreFull:
            return self._fail(DISK_FULL)
        except (DBAPIError, StoreError):
            log.exception("service_unavailable")
            return EXIT_UNWRITTEN
        except Exception as error:
            log.exception("run_failed")
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            return self._fail(DISK_FULL if full else INTERNAL_ERROR)
        return EXIT_DONE

    def _run(self, engine: Engine) -> None:
        job = self._load()
        store = open_store(self._settings.store, spool=self._settings.data_dir / "spool")
        checkpoints = Checkpoints(self._database, store, self._job_id, self._attempt, self._folder / "run")
        reporter = DatabaseReporter(self._database, self._job_id, self._attempt, checkpoints)
        signal.signal(signal.SIGTERM, lambda *_: reporter.stop())
        restored = checkpoints.restore()
        if restored:
            reporter.event("run.restored", "The run goes on from files of another machine.", files=restored)
        spec = JobSpec.model_validate(job.spec)
        inputs = Inputs(self._database, store, self._settings, job.tenant, self._folder / "inputs")
        result = engine(inputs.resolve(spec), self._folder / "run", reporter)
        self._deliver(store, reporter, result, job.spec_digest)

    def _load(self) -> Job:
        with self._database.session() as session:
            job = session.get(Job, self._job_id)
        if job is None or job.attempt != self._attempt or job.status is not JobStatus.RUNNING:
            raise LeaseLost(self._job_id)
        return job

    def _deliver(self, store: Store, reporter: DatabaseReporter, result: RunResult, digest: str) -> None:
        """Upload first, then everything visible in one guarded transaction."""
        certificate = result.certificate
        if certificate.spec_digest != digest:  # the engine saw local paths; the user wrote other sources
            certificate = certificate.model_copy(update={"spec_digest": digest})
            _rewrite_certificate(result, certificate)
        deliveries = [
            Delivery(file.name, blob.size, blob.sha256, file.media_type)
            for file in result.artifacts
            for blob in [store.put_file(file.path)]
        ]
        with self._database.transaction() as session:
            reporter.flush(session)
            lifecycle.succeed(
                session,
                self._job_id,
                self._attempt,
                result=summary(certificate),
                artifacts=deliveries,
                progress=progress.finished(),
            )

    def _fail(self, error: JobError) -> int:
        try:
            with self._database.transaction() as session:
                lifecycle.fail(session, self._job_id, self._attempt, error)
        except LeaseLost:
            return EXIT_STOPPED
        except DBAPIError:
            log.exception("error_not_written", code=error.code)
            return EXIT_UNWRITTEN
        return EXIT_DONE


def summary(certificate: Certificate) -> dict[str, Any]:
    """The certificate as it is shown inside the job; digests and versions are in the file."""
    return certificate.model_dump(mode="json", exclude={"artifacts", "versions", "recipe", "spread"})


def _rewrite_certificate(result: RunResult, certificate: Certificate) -> None:
    for file in result.artifacts:
        if file.name == "certificate.json":
            file.path.write_text(certificate.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _typed(error: EngineError) -> JobError:
    return JobError(error.code, error.message, error.remedy, error.pointer, error.code in RETRYABLE)


def _engine(spec: JobSpec, workdir: Path, reporter: Reporter) -> RunResult:
    from worker.engine.pipeline import run  # loads torch, once the inputs are found to be there

    return run(spec, workdir, reporter)


def main() -> None:
    """Run the attempt named on the command line."""
    configure()
    job_id, attempt = sys.argv[1:]
    structlog.contextvars.bind_contextvars(job_id=job_id, attempt=int(attempt))
    sys.exit(run_job(Settings(), job_id, int(attempt), _engine))


if __name__ == "__main__":
    main()
