"""A model or data set that a user sent. Its bytes lie in the store under `sha256/<digest>`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, Enum, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, utc_now
from models.job import DEFAULT_TENANT


class UploadKind(StrEnum):
    MODEL = "model"
    DATASET = "dataset"


class Upload(Base):
    __tablename__ = "upload"
    __table_args__ = (
        Index("ix_upload_list", "tenant", "created_at", "id"),
        Index("ix_upload_expires_at", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("upl"))
    tenant: Mapped[str] = mapped_column(String(64), default=DEFAULT_TENANT)
    kind: Mapped[UploadKind] = mapped_column(
        Enum(
            UploadKind,
            native_enum=False,
            length=16,
            create_constraint=True,
            name="kind",
            values_callable=lambda members: [member.value for member in members],
        )
    )
    filename: Mapped[str] = mapped_column(String(300))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    generation: Mapped[int] = mapped_column(default=0)
    media_type: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]


class JobUpload(Base):
    """A job needs the upload. The row is made with the job and goes soon after the job has ended."""

    __tablename__ = "job_upload"
    __table_args__ = (Index("ix_job_upload_upload_id", "upload_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("upload.id"), primary_key=True)
