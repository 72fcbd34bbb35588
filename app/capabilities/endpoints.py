"""`/v1/capabilities`: what can be asked of this service."""

from __future__ import annotations

from fastapi import APIRouter

from app.auth import CurrentCaller, needs
from app.capabilities import service
from app.capabilities.schemas import Capabilities
from app.context import Service
from models.api_key import Scope

router = APIRouter(tags=["capabilities"], dependencies=[needs(Scope.JOBS)])


@router.get("/v1/capabilities", operation_id="get_capabilities", summary="What this service can do")
def get_capabilities(context: Service, caller: CurrentCaller) -> Capabilities:
    """Tasks, architectures, approximations and strategies, with the JSON Schema of a job spec."""
    return service.capabilities(context, caller)
