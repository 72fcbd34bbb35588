"""Queries for webhooks."""

from __future__ import annotations

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from app.pages import Position
from models.webhook import DeliveryStatus, Webhook, WebhookDelivery


def count(session: Session, tenant: str) -> int:
    """How many webhooks the tenant has."""
    return session.execute(
        select(func.count()).select_from(Webhook).where(Webhook.tenant == tenant)
    ).scalar_one()


def find(session: Session, tenant: str, webhook_id: str, *, change: bool = False) -> Webhook | None:
    """The tenant's webhook; `change` locks it until the transaction ends (Postgres)."""
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.tenant == tenant)
    return session.scalars(query.with_for_update(key_share=True) if change else query).one_or_none()


def page(session: Session, tenant: str, position: Position | None, limit: int) -> list[Webhook]:
    """Up to `limit` webhooks behind `position`, the newest first."""
    query = select(Webhook).where(Webhook.tenant == tenant)
    if position is not None:
        same_time = and_(Webhook.created_at == position.created_at, Webhook.id < position.id)
        query = query.where(or_(Webhook.created_at < position.created_at, same_time))
    return list(session.scalars(query.order_by(Webhook.created_at.desc(), Webhook.id.desc()).limit(limit)))


def add(session: Session, webhook: Webhook) -> None:
    """Store a new webhook."""
    session.add(webhook)
    session.flush()


def remove(session: Session, webhook: Webhook) -> None:
    """Forget the webhook and its deliveries."""
    session.delete(webhook)
    session.flush()


def deliveries(
    session: Session, webhook_id: str, status: DeliveryStatus | None, position: Position | None, limit: int
) -> list[WebhookDelivery]:
    """Up to `limit` deliveries behind `position`, the newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    if status is not None:
        query = query.where(WebhookDelivery.status == status)
    if position is not None:
        same_time = and_(WebhookDelivery.created_at == position.created_at, WebhookDelivery.id < position.id)
        query = query.where(or_(WebhookDelivery.created_at < position.created_at, same_time))
    order = (WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
    return list(session.scalars(query.order_by(*order).limit(limit)))


def delivery(session: Session, webhook_id: str, delivery_id: str) -> WebhookDelivery | None:
    """The webhook's delivery of that id, locked until the transaction ends (Postgres)."""
    query = select(WebhookDelivery).where(
        WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook_id
    )
    return session.scalars(query.with_for_update()).one_or_none()
