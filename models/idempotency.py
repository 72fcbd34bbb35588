"""What was answered to a request with an idempotency key, so that a replay gets the same answer."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, utc_now
from models.job import DEFAULT_TENANT


class IdempotencyKey(Base):
    """`status` is NULL while the first request is under way: `holder` works on it until `held_until`."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("ix_idempotency_created_at", "created_at"),)

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True, default=DEFAULT_TENANT)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_digest: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[int | None]
    headers: Mapped[dict[str, str]] = mapped_column(default=dict)
    body: Mapped[str] = mapped_column(Text, default="")
    holder: Mapped[str | None] = mapped_column(String(32))
    held_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
