"""A recipe that a job tried, with its measurements."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, utc_now


class CandidateRow(Base):
    """The stored form of `models.spec.Candidate`. A resumed run writes a number again."""

    __tablename__ = "candidate"

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stage: Mapped[str] = mapped_column(String(16))
    recipe: Mapped[dict[str, Any]]
    measurements: Mapped[dict[str, Any]]
    accepted: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text)
    attempt: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
