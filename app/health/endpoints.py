"""`/healthz` and `/readyz`, for those who run the service."""

from __future__ import annotations

from fastapi import APIRouter

from app.context import Service
from app.health import service
from app.health.schemas import Health, Readiness
from app.version import VERSION

router = APIRouter(tags=["health"])


@router.get("/healthz", operation_id="get_health", summary="Is the process alive")
async def get_health() -> Health:
    """Answers as long as the process does."""
    return Health(status="ok", version=VERSION)


@router.get("/readyz", operation_id="get_readiness", summary="Can requests be served")
async def get_readiness(context: Service) -> Readiness:
    """200 with the state of each part; 503 `not_ready` lists them too, and names the one that is down."""
    return await service.readiness(context)
