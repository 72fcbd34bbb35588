"""What the database knows of stored bytes: the blobs that are shared, and what is to be deleted."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, utc_now

DUE_FOR_A_LOOK = text("check_at IS NOT NULL")


class BlobRow(Base):
    """One row a digest, for ever: `generation` counts how often its bytes were given up.

    `check_at` is when the collector looks whether anything still refers to the bytes; null while
    something does. See `models.blobs` for the protocol.
    """

    __tablename__ = "blob"
    __table_args__ = (
        Index("ix_blob_check_at", "check_at", postgresql_where=DUE_FOR_A_LOOK, sqlite_where=DUE_FOR_A_LOOK),
    )

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    generation: Mapped[int] = mapped_column(default=0)
    check_at: Mapped[datetime | None]


class Garbage(Base):
    """A key that nothing will ever refer to again, or a whole folder of such (it ends in `/`).

    Deleting it twice, or late, does no harm, so it stays here until the store has confirmed.
    """

    __tablename__ = "garbage"
    __table_args__ = (Index("ix_garbage_due_at", "due_at"),)

    key: Mapped[str] = mapped_column(String(300), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(default=utc_now)
