"""What can be done with jobs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.artifacts import repository as artifacts
from app.artifacts.service import describe as describe_artifact
from app.context import Context
from app.jobs import repository
from app.jobs.plan import check_sources, plan_of
from app.jobs.repository import JobFilter
from app.jobs.schemas import Job, JobError, JobLinks, JobList, Plan, Progress
from app.pages import Position, decode_cursor, encode_cursor
from app.pointers import body_problems
from app.problems import IdempotencyKeyReused, InvalidRequest, JobDone, unknown_job
from models import lifecycle
from models.artifact import Artifact
from models.job import Job as JobRow
from models.job import JobStatus
from models.spec import JobSpec

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Created:
    """A job, and whether an earlier request with the same key had created it."""

    job: Job
    version: int
    replayed: bool


def read_spec(document: Any) -> JobSpec:
    """The spec that a body holds.

    Raises:
        InvalidRequest: with a pointer to every field that is wrong.
    """
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        problems = body_problems(error, JobSpec, document)
        more = f" ({len(problems)} fields are wrong)" if len(problems) > 1 else ""
        where = f"{problems[0].pointer}: " if problems[0].pointer else ""
        raise InvalidRequest(
            f"{where}{problems[0].detail}{more}", remedy=problems[0].remedy, errors=problems
        ) from error


def plan(context: Context, tenant: str, spec: JobSpec) -> Plan:
    """Check the spec as `create` does, and say what would be done; nothing is stored."""
    with context.database.session() as session:
        check_sources(session, tenant, spec, settings=context.settings)
    return plan_of(spec)


def create(context: Context, tenant: str, spec: JobSpec, key: str | None) -> Created:
    """Store a queued job, once for a key, and hint that there is work."""
    try:
        created = _store(context, tenant, spec, key)
    except IntegrityError:
        # Another request with the same key was faster: this one is a replay of it.
        created = _store(context, tenant, spec, key)
    if not created.replayed and not context.send_hint():
        # The dispatcher finds the job a little later.
        log.info("hint_not_sent", job_id=created.job.id)
    return created


def get(context: Context, tenant: str, job_id: str) -> tuple[Job, int]:
    """The job and its version."""
    with context.database.session() as session:
        row = existing(session, tenant, job_id)
        return describe(row, artifacts.of_jobs(session, [row.id])), row.version


def page(context: Context, tenant: str, narrowed: JobFilter, cursor: str | None, limit: int) -> JobList:
    """A page of jobs, the newest first."""
    with context.database.session() as session:
        rows = repository.page(session, tenant, narrowed, decode_cursor(cursor), limit + 1)
        files = artifacts.of_jobs(session, [row.id for row in rows])
    shown = rows[:limit]
    has_more = len(rows) > limit
    return JobList(
        object="list",
        data=[describe(row, [file for file in files if file.job_id == row.id]) for row in shown],
        has_more=has_more,
        next_cursor=encode_cursor(Position(shown[-1].created_at, shown[-1].id)) if has_more else None,
    )


def cancel(context: Context, tenant: str, job_id: str) -> tuple[Job, int]:
    """Ask the job to stop; a queued one stops at once.

    Raises:
        JobDone: it ended otherwise.
    """
    with context.database.transaction() as session:
        row = lifecycle.request_cancel(session, job_id, tenant=tenant)
        if row is None:
            raise unknown_job(job_id)
        files = artifacts.of_jobs(session, [row.id])
    if row.done and row.status != JobStatus.CANCELLED:
        raise JobDone(f"The job has {row.status.value} already.", remedy="There is nothing to cancel.")
    return describe(row, files), row.version


def existing(session: Session, tenant: str, job_id: str) -> JobRow:
    """The tenant's job.

    Raises:
        NotFound: there is none of this id, or it is another tenant's.
    """
    row = repository.find(session, tenant, job_id)
    if row is None:
        raise unknown_job(job_id)
    return row


def describe(row: JobRow, files: list[Artifact]) -> Job:
    """The job as the API shows it."""
    path = f"/v1/jobs/{row.id}"
    return Job(
        id=row.id,
        object="job",
        name=row.name,
        status=row.status,
        done=row.done,
        constraints_met=_constraints_met(row.result),
        cancel_requested=row.cancel_requested,
        progress=progress_of(row),
        attempt=row.attempt,
        error=_error(row.error),
        result=row.result,
        artifacts=[describe_artifact(file) for file in files],
        metadata=row.metadata_,
        spec=row.spec,
        spec_digest=row.spec_digest,
        created_at=row.created_at,
        updated_at=row.updated_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        links=JobLinks(
            self=path,
            events=f"{path}/events",
            candidates=f"{path}/candidates",
            artifacts=f"{path}/artifacts",
            cancel=f"{path}/cancel",
        ),
    )


def progress_of(row: JobRow) -> Progress | None:
    """How far the run is, or None before its first report."""
    stored = row.progress
    if stored is None:
        return None
    return Progress(
        stage=stored.get("stage"),
        step=stored.get("step"),
        total=stored.get("total"),
        fraction=stored.get("fraction"),
        eta_seconds=stored.get("eta_seconds"),
        message=stored.get("message") or "",
    )


def _store(context: Context, tenant: str, spec: JobSpec, key: str | None) -> Created:
    digest = _request_digest(spec)
    with context.database.transaction() as session:
        known = repository.find_key(session, tenant, key) if key else None
        if known is not None:
            if known.request_digest != digest:
                raise IdempotencyKeyReused(
                    "This idempotency key came with another spec before.",
                    remedy="Use a new key for a new job.",
                )
            row = existing(session, tenant, known.job_id)
            return Created(describe(row, artifacts.of_jobs(session, [row.id])), row.version, True)
        check_sources(session, tenant, spec, settings=context.settings)
        row = lifecycle.create(session, spec, tenant=tenant)
        if key:
            repository.add_key(session, tenant, key, digest, row.id)
    return Created(describe(row, []), row.version, False)


def _request_digest(spec: JobSpec) -> str:
    """Of all that the user gave: name and metadata too, unlike the digest of the spec."""
    return hashlib.sha256(json.dumps(spec.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _error(stored: dict[str, Any] | None) -> JobError | None:
    if stored is None:
        return None
    return JobError(
        code=stored["code"],
        detail=stored["detail"],
        remedy=stored.get("remedy"),
        pointer=stored.get("pointer"),
        retryable=stored.get("retryable", False),
    )


def _constraints_met(result: dict[str, Any] | None) -> bool | None:
    if result is None:
        return None
    met = result.get("constraints_met")
    return None if met is None else bool(met)
