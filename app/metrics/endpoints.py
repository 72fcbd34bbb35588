"""`/metrics`, for Prometheus: how the service does as a whole, nothing of a tenant."""

from __future__ import annotations

import ipaddress

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client.exposition import choose_encoder

from app.context import Service
from app.metrics.service import Metrics
from app.problems import NotFound
from app.settings import Network

router = APIRouter(tags=["health"])
log = structlog.get_logger(__name__)


@router.get("/metrics", include_in_schema=False)
async def get_metrics(request: Request, context: Service) -> Response:
    """The metrics, for those whom `AXFORGE_API_METRICS_FROM` lets read them; others find nothing."""
    if not _allowed(request, context.api.metrics_from):
        raise NotFound("Nothing is served at /metrics.", remedy="See /openapi.json for the paths.")
    metrics: Metrics = request.app.state.metrics
    try:
        await metrics.reading.within(context.api.probe_seconds, metrics.stored.refresh)
    except TimeoutError:
        log.warning("metrics_not_read", error="timeout")
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(metrics.registry), headers={"Content-Type": media_type})


def _allowed(request: Request, networks: tuple[Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
