"""A share of a job's work that any worker may do."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Enum, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, utc_now


class ShardStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


_OPEN = text("status <> 'done'")


class Shard(Base):
    """One row a share, there from when the job's run puts its stage's work out until it has all results.

    `attempt` rises with every claim and fences: a result is taken only from the claim that holds the row.
    `holder` names the worker that helps; none: the job's own run took it, under the job's lease, so
    that `lease_until` is null too. `begun` tells a helper that computes from one that is still starting.
    `helpers` is how many may help the job at a time, `failures` how often one of them failed here.
    """

    __tablename__ = "shard"
    __table_args__ = (Index("ix_shard_open", "job_id", postgresql_where=_OPEN, sqlite_where=_OPEN),)

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    payload: Mapped[dict[str, Any]]
    helpers: Mapped[int]
    status: Mapped[ShardStatus] = mapped_column(
        Enum(
            ShardStatus,
            native_enum=False,
            length=16,
            create_constraint=True,
            name="status",
            values_callable=lambda members: [member.value for member in members],
        ),
        default=ShardStatus.WAITING,
    )
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    holder: Mapped[str | None] = mapped_column(String(200))
    begun: Mapped[bool] = mapped_column(default=False)
    claimed_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    result: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
