"""Minutes of runs within a window of days: what a tenant used of them, as expressions for statements.

What ended is summed up by day (`compute_use`, at most a row a day), what runs is added as it is now: so the
cost is that of a month and of the tenant's running jobs, however many jobs there are or were.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, literal, select
from sqlalchemy.orm import Session

from models.base import utc_now
from models.database import seconds_since
from models.job import Job, JobStatus, status_is
from models.quota import ComputeUse, minutes_limit_or

WINDOW_DAYS = 30


def used_seconds(session: Session, tenant: Any) -> ColumnElement[float]:
    """What the runs of `tenant` (a name or a column) took within the window, those going on included."""
    # By this process' clock: days make the window, a minute's difference between clocks does not matter.
    oldest = (utc_now() - timedelta(days=WINDOW_DAYS)).date()
    ended = select(func.coalesce(func.sum(ComputeUse.seconds), 0.0)).where(
        ComputeUse.tenant == tenant, ComputeUse.day > oldest
    )
    going_on = select(func.coalesce(func.sum(seconds_since(session, Job.claimed_at)), 0.0)).where(
        Job.tenant == tenant, status_is(JobStatus.RUNNING)
    )
    return (
        ended.correlate_except(ComputeUse).scalar_subquery()
        + going_on.correlate_except(Job).scalar_subquery()
    )


def used_up(session: Session, tenant: Any, default: float | None) -> ColumnElement[bool]:
    """Whether `tenant`, whose row of limits is joined (or missing: outer join), has no minutes left.

    Args:
        default: Minutes of tenants without a limit of their own; None: any number.
    """
    limit = minutes_limit_or(default)
    # CASE, so that nothing is summed up for those without a limit.
    return case((limit.is_(None), literal(False)), else_=used_seconds(session, tenant) >= limit * 60)
