"""Queries for idempotency keys."""

from __future__ import annotations

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from models.database import after
from models.idempotency import IdempotencyKey


def find(session: Session, tenant: str, key: str) -> IdempotencyKey | None:
    """The record of the key."""
    return session.get(IdempotencyKey, (tenant, key))


def add(session: Session, record: IdempotencyKey) -> None:
    """Store the record. A second writer of the same key gets IntegrityError."""
    session.add(record)
    session.flush()


def take(session: Session, tenant: str, key: str, holder: str, seconds: float) -> None:
    """Make the key that of a request under way. A second writer of a new key gets IntegrityError."""
    record = find(session, tenant, key) or IdempotencyKey(tenant=tenant, key=key)
    record.holder = holder
    session.add(record)
    session.flush()
    hold(session, tenant, key, holder, seconds)


def hold(session: Session, tenant: str, key: str, holder: str, seconds: float) -> bool:
    """Go on holding the key; False if another request has taken it."""
    return _change(session, tenant, key, holder, held_until=after(session, seconds))


def settle(
    session: Session,
    tenant: str,
    key: str,
    holder: str,
    *,
    digest: str,
    status: int,
    headers: dict[str, str],
    body: str,
) -> bool:
    """Keep the answer of a request that was under way; False if another request has taken the key."""
    values = {"request_digest": digest, "status": status, "headers": headers, "body": body}
    return _change(session, tenant, key, holder, holder=None, held_until=None, **values)


def drop(session: Session, tenant: str, key: str, holder: str) -> None:
    """Forget a request that was under way and came to nothing."""
    session.execute(
        delete(IdempotencyKey)
        .where(IdempotencyKey.tenant == tenant, IdempotencyKey.key == key, IdempotencyKey.holder == holder)
        .execution_options(synchronize_session=False)
    )


def _change(session: Session, tenant: str, key: str, held_by: str, **values: object) -> bool:
    statement = (
        update(IdempotencyKey)
        .where(IdempotencyKey.tenant == tenant, IdempotencyKey.key == key, IdempotencyKey.holder == held_by)
        .values(**values)
        .returning(IdempotencyKey.key)
        .execution_options(synchronize_session=False)
    )
    return session.execute(statement).one_or_none() is not None
