"""Opaque cursors for lists that are ordered by time, the newest first."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from fastapi import Query
from sqlalchemy import ColumnElement, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from app.pointers import FieldProblem
from app.problems import InvalidRequest

Limit = Annotated[int, Query(ge=1, le=100, description="Entries of a page.")]
Cursor = Annotated[
    str | None, Query(max_length=200, description="`next_cursor` of the page before; the first if left out.")
]


@dataclass(frozen=True)
class Position:
    """The last entry of a page; the next page begins behind it."""

    created_at: datetime
    id: str

    def is_before(
        self, created_at: InstrumentedAttribute[datetime], id: InstrumentedAttribute[str]
    ) -> ColumnElement[bool]:
        """The condition on the entries behind it. One comparison of a pair, which an index can seek."""
        here = tuple_(literal(self.created_at, created_at.type), literal(self.id, id.type))
        return tuple_(created_at, id) < here


Row = TypeVar("Row")


def cut(
    rows: Sequence[Row], limit: int, position: Callable[[Row], Position]
) -> tuple[Sequence[Row], str | None]:
    """The entries of a page and the cursor of the next one, or None at the end.

    `rows` were read up to one more than `limit`, which tells whether there is a next page.
    """
    shown = rows[:limit]
    return shown, encode_cursor(position(shown[-1])) if len(rows) > limit else None


def encode_cursor(position: Position) -> str:
    """The text that a client gives back for the next page."""
    text = f"{position.created_at.isoformat()}|{position.id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> Position | None:
    """Where the next page begins.

    Raises:
        InvalidRequest: this service never gave that cursor.
    """
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        created_at, id = text.split("|")
        moment = datetime.fromisoformat(created_at)
        position = Position(moment.astimezone(UTC), id)
    except (binascii.Error, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise _unknown_cursor() from error
    if moment.tzinfo is None:
        raise _unknown_cursor()
    return position


def _unknown_cursor() -> InvalidRequest:
    detail = "This cursor was not given by this service."
    remedy = "Give `next_cursor` of the page before, or leave it out."
    problem = FieldProblem(parameter="cursor", detail=detail, remedy=remedy)
    return InvalidRequest(detail, remedy=remedy, errors=[problem])
