"""A file of a run's work folder, kept in the store so that another machine can go on."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


def checkpoint_folder(job_id: str) -> str:
    """The store's folder for a job's checkpoints: apart from what is delivered, so that it may go."""
    return f"checkpoint/{job_id}"


class Checkpoint(Base):
    __tablename__ = "checkpoint"

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(300), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    attempt: Mapped[int]
