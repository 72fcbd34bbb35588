"""How many uploads are received at a time: in all, and of one tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from anyio import CapacityLimiter


class UploadPlaces:
    """Places for uploads, of which one tenant has half at the most; further ones of it wait for each other.

    An upload takes as long as its sender likes: without this, one tenant that sends slowly would keep
    all others waiting.

    Args:
        places: In all; a thread each.
    """

    def __init__(self, places: int) -> None:
        self.threads = CapacityLimiter(places)
        self._each = max(1, places // 2)
        self._tenants: WeakValueDictionary[str, _Places] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[CapacityLimiter]:
        """Wait for a place among the tenant's own; inside, its thread is taken from what is given."""
        own = self._tenants.get(tenant)
        if own is None:
            own = self._tenants[tenant] = _Places(self._each)
        async with own.limiter:
            yield self.threads


class _Places:
    """Lives as long as a request of the tenant holds or wants a place."""

    def __init__(self, places: int) -> None:
        self.limiter = CapacityLimiter(places)
