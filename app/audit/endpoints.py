"""`/v1/audit`: what was done in the tenant's name."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from app.audit import service
from app.audit.schemas import AuditEventList
from app.auth import needs
from app.context import Service, Tenant
from app.pages import Cursor, Limit
from models.api_key import Scope

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[needs(Scope.ADMIN)])


@router.get("", operation_id="list_audit_events", summary="List audit events")
def list_audit_events(
    context: Service,
    tenant: Tenant,
    cursor: Cursor = None,
    limit: Limit = 50,
    action: Annotated[
        str | None, Query(max_length=64, description="Only this, such as `job.created`.")
    ] = None,
) -> AuditEventList:
    """Who did what, the newest first."""
    return service.page(context, tenant, action, cursor, limit)
