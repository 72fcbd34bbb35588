"""Statements that several tables need, and those that the two databases spell differently."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from models.base import Base


def insert_into(session: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can say what to do ON CONFLICT."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def remove_oldest(
    session: Session,
    key: tuple[InstrumentedAttribute[Any], ...],
    moment: InstrumentedAttribute[datetime],
    before: ColumnElement[datetime],
    limit: int,
) -> int:
    """Remove the rows whose `moment` is before that, the oldest first, `limit` at most. Returns how many.

    `key` is the table's primary key. Rows that another transaction has locked are passed over.
    """
    old = select(*key).where(moment < before).order_by(moment).limit(limit)
    statement = (
        delete(moment.class_)
        .where(tuple_(*key).in_(old.with_for_update(skip_locked=True)))
        .returning(key[0])
        .execution_options(synchronize_session=False)
    )
    return len(session.scalars(statement).all())
