"""`/v1/quota`: what the caller may have, and has."""

from __future__ import annotations

from fastapi import APIRouter

from app.auth import needs
from app.context import Service, Tenant
from app.quotas import service
from app.quotas.schemas import Quotas
from models.api_key import Scope

router = APIRouter(tags=["quota"], dependencies=[needs(Scope.JOBS)])


@router.get("/v1/quota", operation_id="get_quota", summary="Your limits and what you use of them")
def get_quota(context: Service, tenant: Tenant) -> Quotas:
    """Jobs queued and running, bytes stored, minutes of runs."""
    return service.show(context, tenant)
