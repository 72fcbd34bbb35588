"""Where a tenant wants to be told of events, and what is to be told there."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Enum, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, utc_now
from models.job import DEFAULT_TENANT


class WebhookEvent(StrEnum):
    """What a webhook can be told; those of jobs are also types of the job's events."""

    JOB_CREATED = "job.created"
    JOB_STARTED = "job.started"
    JOB_REQUEUED = "job.requeued"
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    WEBHOOK_DISABLED = "webhook.disabled"
    WEBHOOK_TEST = "webhook.test"


DEFAULT_EVENTS = (WebhookEvent.JOB_SUCCEEDED, WebhookEvent.JOB_FAILED, WebhookEvent.JOB_CANCELLED)
SELECTABLE_EVENTS = tuple(event for event in WebhookEvent if event != WebhookEvent.WEBHOOK_TEST)


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    HELD = "held"
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"


class Webhook(Base):
    """An endpoint of a receiver. Its secret is derived from the service's key and the salt.

    `secret_check` recognises a service key that has changed meanwhile. `failing_since` is the first
    failure after the last success.
    """

    __tablename__ = "webhook"
    __table_args__ = (Index("ix_webhook_list", "tenant", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("whk"))
    tenant: Mapped[str] = mapped_column(String(64), default=DEFAULT_TENANT)
    url: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(String(300), default="")
    events: Mapped[list[str]] = mapped_column(JSON)
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_reason: Mapped[str | None] = mapped_column(String(16))
    salt: Mapped[str] = mapped_column(String(32))
    secret_check: Mapped[str] = mapped_column(String(16))
    previous_salt: Mapped[str | None] = mapped_column(String(32))
    previous_until: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class WebhookDelivery(Base):
    """A message to a receiver, the same bytes at every attempt; the outbox that the deliverer reads.

    `attempt` is the fencing token of who sends it; `failures` counts those since it was (re)started.
    """

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        Index("ix_webhook_delivery_claim", "status", "available_at"),
        Index("ix_webhook_delivery_list", "webhook_id", "created_at", "id"),
        Index("ix_webhook_delivery_created_at", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("msg"))
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhook.id", ondelete="CASCADE"))
    job_id: Mapped[str | None] = mapped_column(String(40))
    type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[str] = mapped_column(Text)
    status: Mapped[DeliveryStatus] = mapped_column(
        Enum(
            DeliveryStatus,
            native_enum=False,
            length=16,
            create_constraint=True,
            name="status",
            values_callable=lambda members: [member.value for member in members],
        ),
        default=DeliveryStatus.PENDING,
    )
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    available_at: Mapped[datetime] = mapped_column(default=utc_now)
    lease_until: Mapped[datetime | None]
    tries: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    delivered_at: Mapped[datetime | None]
