"""Queries for API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, or_, select, update
from sqlalchemy.orm import Session

from app.pages import Position
from models.api_key import ApiKey

# Asked by every request with a key; to compose it takes longer than to run it.
_API_KEY = ApiKey.metadata.tables[ApiKey.__tablename__]
_OF_ANY_TENANT = select(_API_KEY).where(_API_KEY.c.id == bindparam("id"))


def any_exists(session: Session) -> bool:
    """Whether a key was ever created, for any tenant; revoked ones count."""
    return session.scalars(select(ApiKey.id).limit(1)).first() is not None


def of_any_tenant(connection: Connection, key_id: str) -> Row[Any] | None:
    """The key of that id, whoever it is of, as a row that has the names of an `ApiKey`."""
    return connection.execute(_OF_ANY_TENANT, {"id": key_id}).one_or_none()


def find(session: Session, tenant: str, key_id: str) -> ApiKey | None:
    """The tenant's key of that id."""
    return session.scalars(select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant == tenant)).one_or_none()


def page(session: Session, tenant: str, position: Position | None, limit: int) -> list[ApiKey]:
    """Up to `limit` keys behind `position`, the newest first."""
    query = select(ApiKey).where(ApiKey.tenant == tenant)
    if position is not None:
        same_time = and_(ApiKey.created_at == position.created_at, ApiKey.id < position.id)
        query = query.where(or_(ApiKey.created_at < position.created_at, same_time))
    return list(session.scalars(query.order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(limit)))


def of_tenants(session: Session, tenant: str | None) -> list[ApiKey]:
    """All keys of a tenant, or of all tenants; for the operator."""
    query = select(ApiKey) if tenant is None else select(ApiKey).where(ApiKey.tenant == tenant)
    return list(session.scalars(query.order_by(ApiKey.tenant, ApiKey.created_at, ApiKey.id)))


def add(session: Session, key: ApiKey) -> None:
    """Store a key."""
    session.add(key)
    session.flush()


def revoke(session: Session, key_id: str, at: datetime) -> bool:
    """Mark the key as revoked; False if it was already."""
    statement = (
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=at)
        .returning(ApiKey.id)
        .execution_options(synchronize_session=False)
    )
    return session.execute(statement).one_or_none() is not None


def note_use(session: Session, key_id: str, at: datetime, unless_since: datetime) -> None:
    """Remember when the key was used, unless that was noted since `unless_since`."""
    stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < unless_since)
    statement = update(ApiKey).where(ApiKey.id == key_id, stale).values(last_used_at=at)
    session.execute(statement.execution_options(synchronize_session=False))
