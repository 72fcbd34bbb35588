"""Queries for audit events."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, insert, or_, select
from sqlalchemy.orm import Session

from app.caller import Caller
from app.pages import Position
from models.audit import AuditEvent

# Straight into the table: nobody needs the row as an object, and a flush costs more than twice this.
_INSERT = insert(AuditEvent.metadata.tables[AuditEvent.__tablename__])


def record(session: Session, caller: Caller, action: str, subject: str | None, /, **data: Any) -> None:
    """Add what the caller does, in the transaction in which it is done."""
    event = {
        "tenant": caller.tenant,
        "key_id": caller.key_id,
        "action": action,
        "subject": subject,
        "request_id": caller.request_id,
        "address": caller.address,
        "data": data,
    }
    session.execute(_INSERT, event)


def add(session: Session, event: AuditEvent) -> None:
    """Add what somebody did who is no caller: one that was turned away."""
    session.add(event)


def page(
    session: Session, tenant: str, action: str | None, position: Position | None, limit: int
) -> list[AuditEvent]:
    """Up to `limit` events behind `position`, the newest first."""
    query = select(AuditEvent).where(AuditEvent.tenant == tenant)
    if action is not None:
        query = query.where(AuditEvent.action == action)
    if position is not None:
        same_time = and_(AuditEvent.at == position.created_at, AuditEvent.id < position.id)
        query = query.where(or_(AuditEvent.at < position.created_at, same_time))
    return list(session.scalars(query.order_by(AuditEvent.at.desc(), AuditEvent.id.desc()).limit(limit)))
