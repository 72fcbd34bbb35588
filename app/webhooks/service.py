"""What can be done with webhooks."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from app.context import Context
from app.idempotency.service import Answer, Keyed, once
from app.pages import Position, cut, decode_cursor
from app.pointers import FieldProblem
from app.problems import InvalidRequest, NotFound, TooManyWebhooks, WebhookDisabled, WebhooksOff
from app.webhooks import repository
from app.webhooks.schemas import (
    DeliveryAttempt,
    NewWebhook,
    Webhook,
    WebhookChange,
    WebhookDelivery,
    WebhookDeliveryList,
    WebhookList,
    WebhookWithSecret,
)
from models import outbox
from models.base import new_id, utc_now
from models.outbound import OutboundRefused, check_url
from models.quotas import one_at_a_time
from models.signing import NewSecret, new_secret
from models.webhook import DeliveryStatus
from models.webhook import Webhook as WebhookRow
from models.webhook import WebhookDelivery as DeliveryRow


def create(context: Context, tenant: str, wanted: NewWebhook, request: Keyed) -> Answer:
    """Store a webhook, once for a key; its secret is in this answer only, and in no replay.

    Raises:
        InvalidRequest: this service sends nothing to that URL.
        TooManyWebhooks: the tenant has as many as it may.
        WebhooksOff: there is no key to sign with.
    """
    _check_url(context, wanted.url)
    webhook_id = new_id("whk")
    fresh = _fresh_secret(context, webhook_id)
    row = WebhookRow(
        id=webhook_id,
        tenant=tenant,
        url=wanted.url,
        events=[event.value for event in dict.fromkeys(wanted.events)],
        description=wanted.description,
        enabled=wanted.enabled,
        salt=fresh.salt,
        secret_check=fresh.check,
    )
    limit = context.api.webhooks_max

    def store(session: Session) -> Answer:
        one_at_a_time(session, f"webhooks:{tenant}")  # two at once would both find room for the last
        if repository.count(session, tenant) >= limit:
            raise TooManyWebhooks(
                f"There are {limit} webhooks, the most that one may have here.",
                remedy="Remove one that is not needed; one webhook can be told of every event.",
            )
        repository.add(session, row)
        headers = {"Location": f"/v1/webhooks/{row.id}", "Cache-Control": "no-store"}
        return Answer.shown_once(201, _with_secret(row, fresh), headers)

    return once(context, tenant, request, wanted.model_dump_json(), store)


def get(context: Context, tenant: str, webhook_id: str) -> Webhook:
    """The webhook of that id."""
    with context.database.session() as session:
        return describe(_existing(session, tenant, webhook_id))


def page(context: Context, tenant: str, cursor: str | None, limit: int) -> WebhookList:
    """A page of webhooks, the newest first."""
    with context.database.session() as session:
        rows = repository.page(session, tenant, decode_cursor(cursor), limit + 1)
    shown, next_cursor = cut(rows, limit, lambda row: Position(row.created_at, row.id))
    return WebhookList(
        object="list",
        data=[describe(row) for row in shown],
        has_more=next_cursor is not None,
        next_cursor=next_cursor,
    )


def change(context: Context, tenant: str, webhook_id: str, wanted: WebhookChange) -> Webhook:
    """Change what is given. Enabling forgives failures and sends what was held back.

    Raises:
        InvalidRequest: this service sends nothing to that URL.
    """
    if wanted.url is not None:
        _check_url(context, wanted.url)
    with context.database.transaction() as session:
        row = _existing(session, tenant, webhook_id, change=True)
        if wanted.url is not None:
            row.url = wanted.url
        if wanted.events is not None:
            row.events = [event.value for event in dict.fromkeys(wanted.events)]
        if wanted.description is not None:
            row.description = wanted.description
        row.updated_at = utc_now()
        if wanted.enabled is True:
            outbox.resume(session, row)
        elif wanted.enabled is False and row.enabled:
            outbox.hold(session, row, None)
    return describe(row)


def delete(context: Context, tenant: str, webhook_id: str) -> None:
    """Forget the webhook, with what was to be sent to it."""
    with context.database.transaction() as session:
        repository.remove(session, _existing(session, tenant, webhook_id, change=True))


def rotate(context: Context, tenant: str, webhook_id: str, request: Keyed) -> Answer:
    """Give the webhook a new secret, once for a key; for a while messages are signed with the old one too.

    Raises:
        WebhooksOff: there is no key to sign with.
    """
    fresh = _fresh_secret(context, webhook_id)

    def renew(session: Session) -> Answer:
        row = _existing(session, tenant, webhook_id, change=True)
        row.previous_salt = row.salt
        row.previous_until = utc_now() + timedelta(hours=context.api.webhook_overlap_hours)
        row.salt, row.secret_check = fresh.salt, fresh.check
        row.updated_at = utc_now()
        return Answer.shown_once(200, _with_secret(row, fresh), {"Cache-Control": "no-store"})

    return once(context, tenant, request, "", renew)


def send_test(context: Context, tenant: str, webhook_id: str, request: Keyed) -> Answer:
    """Send a message that says nothing, once for a key; its deliveries tell how it went.

    Raises:
        WebhookDisabled: it would wait.
    """

    def send(session: Session) -> Answer:
        row = _existing(session, tenant, webhook_id, change=True)
        _check_enabled(row)
        return Answer(202, describe_delivery(outbox.announce_test(session, row)).model_dump_json())

    return once(context, tenant, request, "", send)


def deliveries(
    context: Context,
    tenant: str,
    webhook_id: str,
    status: DeliveryStatus | None,
    cursor: str | None,
    limit: int,
) -> WebhookDeliveryList:
    """A page of the messages to the webhook, the newest first."""
    with context.database.session() as session:
        _existing(session, tenant, webhook_id)
        rows = repository.deliveries(session, webhook_id, status, decode_cursor(cursor), limit + 1)
    shown, next_cursor = cut(rows, limit, lambda row: Position(row.created_at, row.id))
    return WebhookDeliveryList(
        object="list",
        data=[describe_delivery(row) for row in shown],
        has_more=next_cursor is not None,
        next_cursor=next_cursor,
    )


def replay(context: Context, tenant: str, webhook_id: str, delivery_id: str, request: Keyed) -> Answer:
    """Send a message again now, whatever became of it; once for a key.

    Raises:
        WebhookDisabled: it would wait.
    """

    def send(session: Session) -> Answer:
        webhook = _existing(session, tenant, webhook_id, change=True)
        row = repository.delivery(session, webhook_id, delivery_id)
        if row is None:
            raise NotFound(
                f"The webhook has no delivery {delivery_id[:64]!r}.",
                remedy=f"See GET /v1/webhooks/{webhook_id}/deliveries for the ids.",
            )
        _check_enabled(webhook)
        outbox.replay(session, row)
        return Answer(202, describe_delivery(row).model_dump_json())

    return once(context, tenant, request, "", send)


def describe(row: WebhookRow) -> Webhook:
    """The webhook as the API shows it."""
    in_overlap = row.previous_until is not None and row.previous_until > utc_now()
    return Webhook(
        id=row.id,
        object="webhook",
        url=row.url,
        events=row.events,
        description=row.description,
        enabled=row.enabled,
        disabled_reason=row.disabled_reason,
        failing_since=row.failing_since,
        previous_secret_until=row.previous_until if in_overlap else None,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def describe_delivery(row: DeliveryRow) -> WebhookDelivery:
    """The delivery as the API shows it."""
    return WebhookDelivery(
        id=row.id,
        object="webhook_delivery",
        webhook_id=row.webhook_id,
        type=row.type,
        job_id=row.job_id,
        status=row.status,
        attempts=[DeliveryAttempt.model_validate(each) for each in row.tries],
        next_attempt_at=row.available_at if row.status == DeliveryStatus.PENDING else None,
        created_at=row.created_at,
        delivered_at=row.delivered_at,
    )


def _existing(session: Session, tenant: str, webhook_id: str, *, change: bool = False) -> WebhookRow:
    row = repository.find(session, tenant, webhook_id, change=change)
    if row is None:
        raise NotFound(
            f"There is no webhook {webhook_id[:64]!r}.", remedy="See GET /v1/webhooks for the ids."
        )
    return row


def _check_url(context: Context, url: str) -> None:
    """What its host resolves to is checked when something is sent: here no name server is asked."""
    try:
        check_url(url, context.settings.outbound)
    except OutboundRefused as error:
        problem = FieldProblem(pointer="/url", detail=str(error), remedy=error.remedy)
        raise InvalidRequest(f"/url: {error}", remedy=error.remedy, errors=[problem]) from error


def _check_enabled(row: WebhookRow) -> None:
    if not row.enabled:
        raise WebhookDisabled(
            "The webhook is disabled.",
            remedy=f'Enable it first: PATCH /v1/webhooks/{row.id} with {{"enabled": true}}.',
        )


def _fresh_secret(context: Context, webhook_id: str) -> NewSecret:
    key = context.settings.secret_key
    if key is None:
        raise WebhooksOff(
            "This service has no key to sign webhooks with.",
            remedy="The operator sets AXFORGE_SECRET_KEY for the API and the deliverer.",
        )
    return new_secret(key.get_secret_value(), webhook_id)


def _with_secret(row: WebhookRow, fresh: NewSecret) -> WebhookWithSecret:
    return WebhookWithSecret(**describe(row).model_dump(), secret=fresh.secret)
