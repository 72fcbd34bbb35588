"""What can be done with jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from app.artifacts import repository as artifacts
from app.artifacts.service import describe as describe_artifact
from app.audit import repository as audit
from app.caller import Caller
from app.context import Context
from app.idempotency.service import Answer, Keyed, once
from app.jobs import repository
from app.jobs.plan import check_sources, plan_of
from app.jobs.repository import JobFilter
from app.jobs.schemas import Job, JobError, JobLinks, JobList, Plan, Progress
from app.jobs.watch import JobState
from app.pages import Position, cut, decode_cursor
from app.problems import JobDone, JobNotDone, unknown_job
from app.quotas.service import check_may_queue
from models import exporting, lifecycle, retention
from models.artifact import Artifact
from models.job import TERMINAL, JobStatus
from models.job import Job as JobRow
from models.spec import JobSpec


def plan(context: Context, caller: Caller, spec: JobSpec) -> Plan:
    """Check the spec as `create` does, and say what would be done; nothing is stored."""
    with context.database.session() as session:
        check_sources(session, caller, spec, settings=context.settings)
    return plan_of(spec)


def create(context: Context, caller: Caller, spec: JobSpec, request: Keyed) -> Answer:
    """Store a queued job, once for a key, and hint that there is work.

    Raises:
        QuotaExceeded: the tenant has as many jobs queued, or has used as many minutes, as it may.
    """

    def store(session: Session) -> Answer:
        check_sources(session, caller, spec, settings=context.settings)
        check_may_queue(session, caller.tenant, context.settings)
        row = lifecycle.create(session, spec, tenant=caller.tenant)
        audit.record(session, caller, "job.created", row.id)
        answer = answer_of(context, describe(row, []), row.version, status=202)
        return replace(answer, headers={**answer.headers, "Location": f"/v1/jobs/{row.id}"})

    answer = once(context, caller.tenant, request, _payload(spec) if request.key else "", store)
    if not answer.replayed:
        context.send_hint(spec.target.device)
    return answer


def get(context: Context, tenant: str, job_id: str) -> tuple[Job, int]:
    """The job and its version."""
    with context.database.reading() as connection:
        row = repository.shown(connection, tenant, job_id)
        if row is None:
            raise unknown_job(job_id)
        files = artifacts.of_job(connection, job_id) if row.status is JobStatus.SUCCEEDED else []
    return describe(row, files), row.version


def state(context: Context, tenant: str, job_id: str) -> JobState:
    """The job's version and whether it has ended, for a client that knows the rest."""
    with context.database.reading() as connection:
        found = repository.state(connection, tenant, job_id)
    if found is None:
        raise unknown_job(job_id)
    return found


def page(context: Context, tenant: str, narrowed: JobFilter, cursor: str | None, limit: int) -> JobList:
    """A page of jobs, the newest first."""
    with context.database.session() as session:
        rows = repository.page(session, tenant, narrowed, decode_cursor(cursor), limit + 1)
        files = artifacts.of_jobs(session, [row.id for row in rows])
    shown, next_cursor = cut(rows, limit, lambda row: Position(row.created_at, row.id))
    return JobList(
        object="list",
        data=[describe(row, [file for file in files if file.job_id == row.id]) for row in shown],
        has_more=next_cursor is not None,
        next_cursor=next_cursor,
    )


def cancel(context: Context, caller: Caller, job_id: str, request: Keyed) -> Answer:
    """Ask the job to stop; a queued one stops at once.

    Raises:
        JobDone: it ended otherwise.
    """

    def stop(session: Session) -> Answer:
        row = lifecycle.request_cancel(session, job_id, tenant=caller.tenant)
        if row is None:
            raise unknown_job(job_id)
        if row.done and row.status != JobStatus.CANCELLED:
            raise JobDone(f"The job has {row.status.value} already.", remedy="There is nothing to cancel.")
        audit.record(session, caller, "job.cancelled", row.id)
        job = describe(row, [])  # only one that has succeeded has files
        return answer_of(context, job, row.version, status=200 if job.done else 202)

    return once(context, caller.tenant, request, "", stop)


def answer_of(context: Context, job: Job, version: int, *, status: int = 200) -> Answer:
    """The job with what clients need to look again."""
    headers = {"ETag": etag(version)}
    if not job.done:
        headers["Retry-After"] = str(context.api.retry_after_seconds)
    return Answer(status, job.model_dump_json(), headers)


def etag(version: int) -> str:
    """Of a job's version."""
    return f'"{version}"'


def delete(context: Context, caller: Caller, job_id: str) -> None:
    """Forget a job that has ended, with its events, candidates and files.

    Raises:
        JobNotDone: it is queued or running, or a candidate of it is being exported.
    """
    with context.database.transaction() as session:
        row = repository.lock(session, caller.tenant, job_id)
        if row is None:
            raise unknown_job(job_id)
        if not row.done:
            raise JobNotDone(
                f"The job is {row.status.value}.",
                remedy=f"Cancel it (POST /v1/jobs/{job_id}/cancel), wait until it is done, then delete it.",
            )
        if session.execute(select(exporting.under_way(job_id))).scalar_one():
            raise JobNotDone(
                "A candidate of the job is being exported.",
                remedy="Wait for the jobs that its candidates name as export_job_id, or cancel them.",
            )
        audit.record(session, caller, "job.deleted", job_id)
        retention.remove_job(session, row, context.settings.upload_days)


def describe(row: JobRow | Row[Any], files: Sequence[Artifact | Row[Any]]) -> Job:
    """The job as the API shows it."""
    path = f"/v1/jobs/{row.id}"
    return Job(
        id=row.id,
        object="job",
        name=row.name,
        status=row.status,
        done=row.status in TERMINAL,
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


def progress_of(row: JobRow | Row[Any]) -> Progress | None:
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


def _payload(spec: JobSpec) -> str:
    """All that the user gave: name and metadata too, unlike the digest of the spec."""
    return json.dumps(spec.model_dump(mode="json"), sort_keys=True)


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
