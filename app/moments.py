"""Times that clients give."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def in_utc(moment: datetime) -> datetime:
    """The same time in UTC, which one without a zone is taken to be in.

    Raises:
        ValueError: there it is before the year 1 or behind 9999, where no database follows.
    """
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ValueError("Expected a time between the years 1 and 9999") from None


def _dated(given: Any) -> Any:
    """Seconds since 1970 would be taken for a time as well, and a slip of the keyboard for seconds."""
    if isinstance(given, str) and not DATE.match(given):
        raise ValueError("Expected a date and a time, such as 2026-01-31T12:00:00Z")
    return given


Moment = Annotated[datetime, BeforeValidator(_dated), AfterValidator(in_utc)]
"""A parameter: RFC 3339, in UTC without a zone."""
