"""Limits of tenants: which hold, and what is used of them. Whose jobs have to wait says `models.queue`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, func, select
from sqlalchemy.orm import Session

from models.database import now
from models.job import Job, JobStatus, status_is
from models.minutes import WINDOW_DAYS as WINDOW_DAYS
from models.minutes import used_seconds
from models.quota import UNLIMITED, ComputeUse, TenantQuota
from models.settings import Settings
from models.statements import insert_into


@dataclass(frozen=True)
class Limits:
    """What a tenant may have; None is without limit."""

    queued_jobs: int | None
    running_jobs: int | None
    stored_bytes: int | None
    compute_minutes: float | None


NAMES = tuple(field.name for field in fields(Limits))
# Asked for every job that is created; to compose it, or to load an object, takes longer than to run it.
_OWN_LIMITS = select(*(TenantQuota.__table__.c[name] for name in NAMES)).where(
    TenantQuota.__table__.c.tenant == bindparam("tenant")
)


def default_limits(settings: Settings) -> Limits:
    """What holds for a tenant without limits of its own."""
    return Limits(**{name: getattr(settings, f"quota_{name}") for name in NAMES})


def limits_of(session: Session, tenant: str, settings: Settings) -> Limits:
    """What holds for the tenant: its own limits, and the defaults where it has none."""
    own = session.execute(_OWN_LIMITS, {"tenant": tenant}).one_or_none()
    defaults = default_limits(settings)
    return defaults if own is None else Limits(**{name: _settled(own, defaults, name) for name in NAMES})


def set_limits(session: Session, tenant: str, **changes: float | None) -> None:
    """Give the tenant limits of its own; None takes one back to the default."""
    own = session.get(TenantQuota, tenant) or TenantQuota(tenant=tenant)
    for name, value in changes.items():
        setattr(own, name, value)
    session.add(own)
    session.flush()


def tenants_with_limits(session: Session) -> list[str]:
    """Those that have limits of their own."""
    return list(session.scalars(select(TenantQuota.tenant).order_by(TenantQuota.tenant)))


def active_jobs(session: Session, tenant: str, status: JobStatus) -> int:
    """How many jobs of the tenant are queued, or running."""
    counted = select(func.count()).where(Job.tenant == tenant, status_is(status))
    return session.execute(counted).scalar_one()


def compute_minutes(session: Session, tenant: str) -> float:
    """Minutes that the tenant's runs took within the window, those going on included."""
    used = select(used_seconds(session, tenant))
    return float(session.execute(used).scalar_one()) / 60


def within_running_limit(session: Session, tenant: str, default: int | None) -> bool:
    """Whether the tenant may have the jobs that run, the one that was just claimed included.

    Two workers may claim at the same moment: the second waits here for the first, then counts again.
    """
    limit = running_limit(session, tenant, default)
    if limit is None:
        return True
    one_at_a_time(session, f"running_jobs:{tenant}")
    return active_jobs(session, tenant, JobStatus.RUNNING) <= limit


def running_limit(session: Session, tenant: str, default: int | None) -> int | None:
    """How many jobs of the tenant may run at a time; None: any number."""
    own = session.get(TenantQuota, tenant)
    limit = default if own is None or own.running_jobs is None else own.running_jobs
    return None if limit == UNLIMITED else limit


def one_at_a_time(session: Session, name: str) -> None:
    """Wait for other transactions that work under the name; they wait for this one.

    On SQLite there is one writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"axforge:{name}", 0))))


def run_seconds(session: Session, job_id: str, attempt: int) -> float:
    """How long the run that holds the job has been going on; a lost one until its lease ran out."""
    held = select(Job.claimed_at, Job.lease_until, now(session)).where(
        Job.id == job_id, Job.attempt == attempt, Job.status == JobStatus.RUNNING
    )
    row = session.execute(held.with_for_update()).one_or_none()
    claimed_at, lease_until, moment = row if row is not None else (None, None, None)
    if claimed_at is None or moment is None:
        return 0.0
    return max(0.0, (min(moment, lease_until or moment) - claimed_at).total_seconds())


def charge(session: Session, tenant: str, seconds: float) -> None:
    """Add to what the tenant's runs took today."""
    row = insert_into(session, ComputeUse).values(tenant=tenant, day=_moment(session).date(), seconds=seconds)
    session.execute(
        row.on_conflict_do_update(
            index_elements=[ComputeUse.tenant, ComputeUse.day],
            set_={"seconds": ComputeUse.seconds + row.excluded.seconds},
        )
    )


def _settled(own: Row[Any], defaults: Limits, name: str) -> Any:
    value = getattr(own, name)
    if value is None:
        return getattr(defaults, name)
    return None if value == UNLIMITED else value


def _moment(session: Session) -> datetime:
    return session.execute(select(now(session))).scalar_one()
