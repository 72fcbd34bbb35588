"""Reads the audit trail."""

from __future__ import annotations

from app.audit import repository
from app.audit.schemas import AuditEvent, AuditEventList
from app.context import Context
from app.pages import Position, decode_cursor, encode_cursor
from models.audit import AuditEvent as AuditEventRow


def page(context: Context, tenant: str, action: str | None, cursor: str | None, limit: int) -> AuditEventList:
    """A page of what was done in the tenant's name, the newest first."""
    with context.database.session() as session:
        rows = repository.page(session, tenant, action, decode_cursor(cursor), limit + 1)
    shown, has_more = rows[:limit], len(rows) > limit
    return AuditEventList(
        object="list",
        data=[_describe(row) for row in shown],
        has_more=has_more,
        next_cursor=encode_cursor(Position(shown[-1].at, shown[-1].id)) if has_more else None,
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
