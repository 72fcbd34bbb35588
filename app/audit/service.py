"""Reads the audit trail."""

from __future__ import annotations

from app.audit import repository
from app.audit.schemas import AuditEvent, AuditEventList
from app.context import Context
from app.pages import Position, cut, decode_cursor
from models.audit import AuditEvent as AuditEventRow


def page(context: Context, tenant: str, action: str | None, cursor: str | None, limit: int) -> AuditEventList:
    """A page of what was done in the tenant's name, the newest first."""
    with context.database.session() as session:
        rows = repository.page(session, tenant, action, decode_cursor(cursor), limit + 1)
    shown, next_cursor = cut(rows, limit, lambda row: Position(row.at, row.id))
    return AuditEventList(
        object="list",
        data=[_describe(row) for row in shown],
        has_more=next_cursor is not None,
        next_cursor=next_cursor,
    )


def _describe(row: AuditEventRow) -> AuditEvent:
    return AuditEvent(
        id=row.id,
        object="audit_event",
        action=row.action,
        subject=row.subject,
        key_id=row.key_id,
        request_id=row.request_id,
        address=row.address,
        at=row.at,
        data=row.data,
    )
