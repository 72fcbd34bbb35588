"""Blocking calls that may hang: bounded in time, and in how many threads they can take with them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """A few threads for the calls to one dependency.

    A call that takes too long is left alone and keeps its thread until it ends. When all threads are
    held that way, further calls are not begun: they time out, and nothing else waits for them. (The
    limiters of anyio do not do for this: they count an abandoned call as ended.)
    """

    def __init__(self, places: int) -> None:
        self._pool = ThreadPoolExecutor(places, thread_name_prefix="bounded")

    async def within(self, seconds: float, function: Callable[[], T]) -> T:
        """What `function` gives.

        Raises:
            TimeoutError: it took longer, or no thread became free.
        """
        call = self._pool.submit(contextvars.copy_context().run, function)
        return await asyncio.wait_for(asyncio.wrap_future(call), seconds)
