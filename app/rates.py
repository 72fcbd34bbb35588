"""How fast requests may come, by class; counted here, or in Redis where several processes share it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args
from urllib.parse import parse_qs, urlencode, urlsplit

import structlog
from fastapi import Request
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.exceptions import RedisError

from app.problems import RateLimited
from app.settings import ApiSettings

RateClass = Literal["writes", "reads", "streams"]
RATE_CLASSES: tuple[RateClass, ...] = get_args(RateClass)

REDIS_SECONDS = 0.25  # longer than this a request does not wait for the counter
PAUSE_SECONDS = 5.0  # after a failure nobody is counted for so long, and nobody waits

log = structlog.get_logger(__name__)


class RateLimits:
    """Moving windows, one for each class and caller. Make one in the process's event loop.

    `refused` counts by class; `failures` counts how often Redis failed: after each, requests are let in
    uncounted for `PAUSE_SECONDS`.
    """

    def __init__(self, api: ApiSettings, broker: str | None) -> None:
        given: dict[RateClass, str | None] = {
            "writes": api.rate_writes,
            "reads": api.rate_reads,
            "streams": api.rate_streams,
        }
        self._limits: dict[RateClass, RateLimitItem] = {
            name: parse(text) for name, text in given.items() if text is not None
        }
        self._storage = _storage(broker) if self._limits else MemoryStorage()
        self._windows = MovingWindowRateLimiter(self._storage)
        self._paused_until = 0.0
        self.refused: Counter[str] = Counter()
        self.failures = 0

    async def admit(self, request: Request, caller: str) -> Mapping[str, str]:
        """Count the request of `caller`; the headers that tell it where it stands.

        If the counter fails the request is let in: a limit must not become an outage.

        Raises:
            RateLimited: the caller has used up what it may send.
        """
        name = rate_class(request)
        limit = self._limits.get(name)
        if limit is None or time.monotonic() < self._paused_until:
            return {}
        try:
            admitted = await self._windows.hit(limit, name, caller)
            reset, remaining = await self._windows.get_window_stats(limit, name, caller)
        except (RedisError, OSError) as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            self.failures += 1
            log.warning("rate_limits_unavailable", reason=type(error).__name__, seconds=PAUSE_SECONDS)
            return {}
        seconds = max(1, math.ceil(reset - time.time()))
        headers = {
            "RateLimit-Policy": f'"{name}";q={limit.amount};w={limit.get_expiry()}',
            "RateLimit": f'"{name}";r={max(remaining, 0)};t={seconds}',
        }
        if not admitted:
            self.refused[name] += 1
            raise RateLimited(
                f"The limit on {name} is {limit.amount} requests in {limit.get_expiry()} seconds; "
                "all of them are used.",
                remedy=f"Send the next one in {seconds} seconds, and fewer at a time; or ask the operator.",
                headers={**headers, "Retry-After": str(seconds)},
            )
        return headers

    async def close(self) -> None:
        """Give back the connections to Redis."""
        if isinstance(self._storage, RedisStorage):
            await cast(Any, self._storage.bridge).storage.aclose()


def rate_class(request: Request) -> RateClass:
    """What kind of load the request is."""
    if request.method not in ("GET", "HEAD"):
        return "writes"
    waits = "wait" in request.headers.get("prefer", "").lower()
    streams = "text/event-stream" in request.headers.get("accept", "").lower()
    return "streams" if waits or streams else "reads"


def _storage(broker: str | None) -> Storage:
    url = _redis_url(broker)
    if url is None:
        return MemoryStorage()
    options: dict[str, Any] = {
        "socket_timeout": REDIS_SECONDS,
        "socket_connect_timeout": REDIS_SECONDS,
    }
    return RedisStorage(url, implementation="redispy", key_prefix="axforge:rates", **options)


def _redis_url(broker: str | None) -> str | None:
    """The broker's URL as `limits` writes it, or None if the broker is no Redis."""
    if broker is None or not broker.startswith("redis"):
        return None
    if not broker.startswith("redis+socket://"):
        return f"async+{broker}"
    parts = urlsplit(broker)
    database = parse_qs(parts.query).get("virtual_host", ["0"])[0]
    return f"async+redis+unix://{parts.path}?{urlencode({'db': database})}"
