"""Queries for uploads."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.pages import Position
from models import usage
from models.upload import Upload, UploadKind


def find(session: Session, tenant: str, upload_id: str, *, keep: bool = False) -> Upload | None:
    """The tenant's upload; `keep` locks it against removal until the transaction ends (Postgres)."""
    query = select(Upload).where(Upload.id == upload_id, Upload.tenant == tenant)
    return session.scalars(query.with_for_update(read=True) if keep else query).one_or_none()


def page(
    session: Session, tenant: str, kind: UploadKind | None, position: Position | None, limit: int
) -> list[Upload]:
    """Up to `limit` uploads behind `position`, the newest first."""
    query = select(Upload).where(Upload.tenant == tenant)
    if kind is not None:
        query = query.where(Upload.kind == kind)
    if position is not None:
        query = query.where(position.is_before(Upload.created_at, Upload.id))
    return list(session.scalars(query.order_by(Upload.created_at.desc(), Upload.id.desc()).limit(limit)))


def add(session: Session, upload: Upload) -> None:
    """Store the record of an upload whose bytes are in the store."""
    session.add(upload)
    usage.add(session, upload.tenant, upload.size)
    session.flush()


def lock(session: Session, tenant: str, upload_id: str) -> Upload | None:
    """The tenant's upload, to be removed in this transaction."""
    query = select(Upload).where(Upload.id == upload_id, Upload.tenant == tenant)
    return session.scalars(query.with_for_update()).one_or_none()
