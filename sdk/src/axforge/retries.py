"""When to ask again, and how long to wait before it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter; the server's Retry-After is the lower bound.

    `retries` counts further attempts after the first. A Retry-After above `longest_wait` seconds is
    not waited for: the error is raised with `retry_after` set, and the caller decides.
    """

    retries: int = 5
    first_wait: float = 0.5
    longest_wait: float = 60.0
    random: random.Random = field(default_factory=random.Random, repr=False)

    def wait_before(self, attempt: int, retry_after: float | None) -> float | None:
        """Seconds to wait before retry number `attempt` (from 0); None when it is time to give up."""
        if attempt >= self.retries:
            return None
        if retry_after is not None and retry_after > self.longest_wait:
            return None
        backoff = self.random.uniform(0.0, min(self.longest_wait, self.first_wait * 2**attempt))
        return max(backoff, retry_after or 0.0)


def retry_after_seconds(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110: a number or a date), None without a readable one."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
