"""A job that exports and certifies another candidate of one that has succeeded."""

from __future__ import annotations

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class CandidateExport(Base):
    """One row for a candidate that was asked for: `job_id` is the job that exports it, the last one asked
    for if those before it failed; `source_id` the job whose search found candidate `number`."""

    __tablename__ = "candidate_export"
    __table_args__ = (UniqueConstraint("source_id", "number"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    number: Mapped[int]
