"""Webhooks as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool

from app.schemas import Resource
from models.webhook import DEFAULT_EVENTS, SELECTABLE_EVENTS, DeliveryStatus, WebhookEvent


def _selectable(event: WebhookEvent) -> WebhookEvent:
    if event not in SELECTABLE_EVENTS:
        raise ValueError(f"{event.value} is sent by POST /v1/webhooks/ID/test only; leave it out")
    return event


Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2000,
        description="Receives POSTs. Redirects are not followed.",
        examples=["https://example.com/hooks/axforge"],
    ),
]
Events = Annotated[
    list[Annotated[WebhookEvent, AfterValidator(_selectable)]],
    Field(min_length=1, max_length=len(WebhookEvent), description="What the receiver is told."),
]
Description = Annotated[str, Field(max_length=300, description="For yourself.")]


class NewWebhook(BaseModel):
    """A webhook to be created."""

    model_config = ConfigDict(extra="forbid")

    url: Url
    events: Events = list(DEFAULT_EVENTS)
    description: Description = ""
    enabled: StrictBool = True


class WebhookChange(BaseModel):
    """What is to become of a webhook; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: StrictBool | None = Field(
        None, description="false holds back what is to be sent; true sends it, and forgives failures."
    )


class Webhook(Resource):
    """An address of yours that is told of events, signed by Standard Webhooks."""

    id: str = Field(examples=["whk_0190a1b2c3d4e5f60718293a4b5c"])
    object: Literal["webhook"]
    url: str
    events: list[WebhookEvent]
    description: str
    enabled: bool
    disabled_reason: str | None = Field(
        description="`gone`: the receiver answered 410. `failing`: it took nothing for days. "
        "null: enabled, or disabled by you."
    )
    failing_since: datetime | None = Field(description="First failure after the last success.")
    previous_secret_until: datetime | None = Field(
        description="Messages are also signed with the secret before the last rotation until then."
    )
    created_at: datetime
    updated_at: datetime


class WebhookWithSecret(Webhook):
    """A webhook with its secret, which is shown this once."""

    secret: str | None = Field(
        description="Verifies the signatures. Keep it; it is not shown again: null if the answer is a replay."
    )


class WebhookList(Resource):
    """A page of webhooks, the newest first."""

    object: Literal["list"]
    data: list[Webhook]
    has_more: bool
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


class DeliveryAttempt(Resource):
    """One try to send a message."""

    attempt: int
    at: datetime
    duration_ms: int
    status_code: int | None = Field(description="What the receiver answered, if it did.")
    error: str | None = Field(description="Why the message was not taken.")
    response: str = Field(description="At most 200 characters of an answer that was no success.")


class WebhookDelivery(Resource):
    """A message to a webhook, and what became of it."""

    id: str = Field(description="The header `webhook-id`, the same at every attempt.")
    object: Literal["webhook_delivery"]
    webhook_id: str
    type: WebhookEvent
    job_id: str | None
    status: DeliveryStatus = Field(
        description="pending: to be sent. held: waits until the webhook is enabled. delivered: the "
        "receiver took it. exhausted: given up."
    )
    attempts: list[DeliveryAttempt] = Field(description="The last 20, the oldest first.")
    next_attempt_at: datetime | None
    created_at: datetime
    delivered_at: datetime | None


class WebhookDeliveryList(Resource):
    """A page of deliveries, the newest first."""

    object: Literal["list"]
    data: list[WebhookDelivery]
    has_more: bool
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")
