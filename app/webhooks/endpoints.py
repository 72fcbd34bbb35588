"""`/v1/webhooks`: addresses that are told of events, and the log of what was sent there."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from app.auth import needs
from app.bodies import read_document, validated
from app.context import Service, Tenant
from app.idempotency.service import Idempotent
from app.pages import Cursor, Limit
from app.webhooks import service
from app.webhooks.schemas import (
    NewWebhook,
    Webhook,
    WebhookChange,
    WebhookDelivery,
    WebhookDeliveryList,
    WebhookList,
    WebhookWithSecret,
)
from models.api_key import Scope
from models.webhook import DeliveryStatus

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], dependencies=[needs(Scope.WEBHOOKS)])

BODY_MAX_BYTES = 16 * 1024
WebhookId = Annotated[str, Path(max_length=64, description="Id of a webhook, such as `whk_0190…`.")]
DeliveryId = Annotated[str, Path(max_length=64, description="Id of a delivery, such as `msg_0190…`.")]


def _body(name: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post(
    "",
    operation_id="create_webhook",
    summary="Create a webhook",
    status_code=201,
    response_model=WebhookWithSecret,
    responses={
        201: {
            "description": "The webhook, with its secret.",
            "headers": {"Location": {"schema": {"type": "string"}, "description": "Path of the webhook."}},
        }
    },
    openapi_extra=_body("NewWebhook"),
)
async def create_webhook(
    request: Request, context: Service, tenant: Tenant, idempotency: Idempotent
) -> Response:
    """Be told of events. The answer holds the secret that verifies the signatures; it is not shown again."""
    wanted = validated(NewWebhook, await read_document(request, BODY_MAX_BYTES))
    answer = await run_in_threadpool(service.create, context, tenant, wanted, idempotency)
    return answer.response()


@router.get("", operation_id="list_webhooks", summary="List webhooks")
def list_webhooks(context: Service, tenant: Tenant, cursor: Cursor = None, limit: Limit = 20) -> WebhookList:
    """The webhooks, the newest first."""
    return service.page(context, tenant, cursor, limit)


@router.get("/{webhook_id}", operation_id="get_webhook", summary="Get a webhook")
def get_webhook(context: Service, tenant: Tenant, webhook_id: WebhookId) -> Webhook:
    """The webhook, without its secret."""
    return service.get(context, tenant, webhook_id)


@router.patch(
    "/{webhook_id}",
    operation_id="change_webhook",
    summary="Change a webhook",
    response_model=Webhook,
    openapi_extra=_body("WebhookChange"),
)
async def change_webhook(
    request: Request, context: Service, tenant: Tenant, webhook_id: WebhookId
) -> Webhook:
    """Change what the body gives. Enabling a disabled webhook sends what was held back."""
    wanted = validated(WebhookChange, await read_document(request, BODY_MAX_BYTES))
    return await run_in_threadpool(service.change, context, tenant, webhook_id, wanted)


@router.delete(
    "/{webhook_id}",
    operation_id="delete_webhook",
    summary="Remove a webhook",
    status_code=204,
    response_class=Response,
)
def delete_webhook(context: Service, tenant: Tenant, webhook_id: WebhookId) -> None:
    """Remove a webhook and the log of its deliveries. What has not been sent is not sent."""
    service.delete(context, tenant, webhook_id)


@router.post(
    "/{webhook_id}/rotate",
    operation_id="rotate_webhook",
    summary="Change a webhook's secret",
    response_model=WebhookWithSecret,
)
def rotate_webhook(
    context: Service, tenant: Tenant, webhook_id: WebhookId, idempotency: Idempotent
) -> Response:
    """Get a new secret. Messages carry a signature of the old one too until `previous_secret_until`."""
    return service.rotate(context, tenant, webhook_id, idempotency).response()


@router.post(
    "/{webhook_id}/test",
    operation_id="test_webhook",
    summary="Try a webhook out",
    status_code=202,
    response_model=WebhookDelivery,
)
def test_webhook(
    context: Service, tenant: Tenant, webhook_id: WebhookId, idempotency: Idempotent
) -> Response:
    """Send a message of type `webhook.test`. 409 `webhook_disabled` while the webhook is disabled."""
    return service.send_test(context, tenant, webhook_id, idempotency).response()


@router.get("/{webhook_id}/deliveries", operation_id="list_webhook_deliveries", summary="List what was sent")
def list_webhook_deliveries(
    context: Service,
    tenant: Tenant,
    webhook_id: WebhookId,
    cursor: Cursor = None,
    limit: Limit = 20,
    status: Annotated[DeliveryStatus | None, Query(description="Only those of this status.")] = None,
) -> WebhookDeliveryList:
    """The messages to the webhook with their attempts, the newest first."""
    return service.deliveries(context, tenant, webhook_id, status, cursor, limit)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/replay",
    operation_id="replay_webhook_delivery",
    summary="Send a message again",
    status_code=202,
    response_model=WebhookDelivery,
)
def replay_webhook_delivery(
    context: Service,
    tenant: Tenant,
    webhook_id: WebhookId,
    delivery_id: DeliveryId,
    idempotency: Idempotent,
) -> Response:
    """Send it now, under the same id, however it went. 409 `webhook_disabled` while that is so."""
    return service.replay(context, tenant, webhook_id, delivery_id, idempotency).response()
