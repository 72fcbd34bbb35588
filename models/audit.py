"""Who did what, for those who have to answer for it. Rows are added, never changed, and go by age only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, utc_now


class AuditEvent(Base):
    """`tenant` is NULL where somebody was turned away who named no key of a tenant."""

    __tablename__ = "audit_event"
    __table_args__ = (
        Index("ix_audit_event_list", "tenant", "at", "id"),
        Index("ix_audit_event_at", "at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("aud"))
    tenant: Mapped[str | None] = mapped_column(String(64))
    key_id: Mapped[str | None] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(128))
    address: Mapped[str | None] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(default=utc_now)
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)
