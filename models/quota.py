"""What a tenant may have beyond or below the service's defaults, what its runs took, and what it stores."""

from __future__ import annotations

from datetime import date

from sqlalchemy import BigInteger, ColumnElement, Double, Integer, String, func, literal
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

UNLIMITED = -1


class TenantQuota(Base):
    """One tenant's own limits: NULL is the service's default, `UNLIMITED` none at all."""

    __tablename__ = "tenant_quota"

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    queued_jobs: Mapped[int | None]
    running_jobs: Mapped[int | None]
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    compute_minutes: Mapped[float | None]


def running_limit_or(default: int | None) -> ColumnElement[int | None]:
    """Of a tenant's row, or of none (outer join): how many jobs it may run at a time, NULL for any number."""
    own = func.coalesce(TenantQuota.running_jobs, literal(default, Integer()))
    return func.nullif(own, UNLIMITED)


def minutes_limit_or(default: float | None) -> ColumnElement[float | None]:
    """The same of its minutes of runs."""
    own = func.coalesce(TenantQuota.compute_minutes, literal(default, Double()))
    return func.nullif(own, float(UNLIMITED))


class ComputeUse(Base):
    """Seconds that a tenant's runs took, by the day they ended: it outlives the jobs."""

    __tablename__ = "compute_use"

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    seconds: Mapped[float] = mapped_column(default=0.0)


class StoredUse(Base):
    """Bytes of a tenant's uploads and artifacts together (`models.usage`)."""

    __tablename__ = "stored_use"

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
