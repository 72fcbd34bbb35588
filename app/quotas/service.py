"""Who has how much, and the refusal of more than that."""

from __future__ import annotations

from typing import Literal

from sqlalchemy.orm import Session

from app.context import Context
from app.problems import ComputeQuotaExceeded, QueueQuotaExceeded, StorageQuotaExceeded
from app.quota_state import QuotaState
from app.quotas.schemas import Quota, Quotas
from models import quotas, usage
from models.job import JobStatus
from models.settings import Settings

RETRY_SECONDS = 30


def show(context: Context, tenant: str) -> Quotas:
    """The tenant's limits and use."""
    with context.database.session() as session:
        return describe(session, tenant, context.settings)


def describe(session: Session, tenant: str, settings: Settings) -> Quotas:
    """The same, within a session."""
    limits = quotas.limits_of(session, tenant, settings)
    queued = quotas.active_jobs(session, tenant, JobStatus.QUEUED)
    running = quotas.active_jobs(session, tenant, JobStatus.RUNNING)
    minutes = round(quotas.compute_minutes(session, tenant), 2)
    quota = Quotas(
        object="quota",
        queued_jobs=Quota(limit=limits.queued_jobs, used=queued),
        running_jobs=Quota(limit=limits.running_jobs, used=running),
        stored_bytes=Quota(limit=limits.stored_bytes, used=usage.stored_bytes(session, tenant)),
        compute_minutes=Quota(limit=limits.compute_minutes, used=minutes),
        window_days=quotas.WINDOW_DAYS,
        waiting_for=None,
    )
    return quota.model_copy(update={"waiting_for": _waiting_for(quota)})


def _waiting_for(quota: Quotas) -> Literal["compute_minutes", "running_jobs"] | None:
    if quota.queued_jobs.used == 0:
        return None
    if _is_met(quota.compute_minutes):
        return "compute_minutes"
    return "running_jobs" if _is_met(quota.running_jobs) else None


def _is_met(quota: Quota) -> bool:
    return quota.limit is not None and quota.used >= quota.limit


def check_may_queue(session: Session, tenant: str, settings: Settings) -> None:
    """Before a job is added, in the transaction that adds it.

    Raises:
        QueueQuotaExceeded, ComputeQuotaExceeded.
    """
    limits = quotas.limits_of(session, tenant, settings)
    if limits.compute_minutes is not None:
        minutes = quotas.compute_minutes(session, tenant)
        if minutes >= limits.compute_minutes:
            raise ComputeQuotaExceeded(
                QuotaState(name="compute_minutes", limit=limits.compute_minutes, used=round(minutes, 2)),
                f"Minutes count for {quotas.WINDOW_DAYS} days: wait until some are older, "
                "or ask the operator for more (`axforge quotas set`).",
            )
    if limits.queued_jobs is not None:
        quotas.one_at_a_time(session, f"queued_jobs:{tenant}")
        queued = quotas.active_jobs(session, tenant, JobStatus.QUEUED)
        if queued >= limits.queued_jobs:
            raise QueueQuotaExceeded(
                QuotaState(name="queued_jobs", limit=limits.queued_jobs, used=queued),
                "Wait until a queued job runs, cancel one, or ask the operator for more.",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )


def storage_left(session: Session, tenant: str, settings: Settings) -> int | None:
    """Bytes that the tenant may still store; None is without limit."""
    limit = quotas.limits_of(session, tenant, settings).stored_bytes
    return None if limit is None else limit - usage.stored_bytes(session, tenant)


def check_may_store(session: Session, tenant: str, settings: Settings, size: int) -> None:
    """Before the record of a file is added, in the transaction that adds it.

    Raises:
        StorageQuotaExceeded.
    """
    if quotas.limits_of(session, tenant, settings).stored_bytes is None:
        return
    quotas.one_at_a_time(session, f"stored_bytes:{tenant}")
    left = storage_left(session, tenant, settings)
    if left is not None and size > left:
        raise storage_exceeded(session, tenant, settings, size)


def storage_exceeded(
    session: Session, tenant: str, settings: Settings, asked: int | None
) -> StorageQuotaExceeded:
    """The problem with its numbers; `asked` are the file's bytes, where they are known."""
    limit = quotas.limits_of(session, tenant, settings).stored_bytes
    return StorageQuotaExceeded(
        QuotaState(
            name="stored_bytes", limit=limit or 0, used=usage.stored_bytes(session, tenant), asked=asked
        ),
        "Remove uploads that are not needed (DELETE /v1/uploads/{id}), or ask the operator for more.",
    )
