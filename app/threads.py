"""Threads for what requests ask the database most: few of them, each with a connection of its own."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from sqlalchemy.exc import TimeoutError as NoConnectionFree

PATIENCE_SECONDS = 10.0
"""A call that waited for so long is not begun: nobody waits for all before him."""

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseThreads:
    """One queue for short reads and one for short writes.

    Python runs one thread at a time, so more threads than connections do nothing but get in each other's
    way, and in that of the event loop. (Starlette's pool makes one for each request under way, up to
    forty.) Reads have threads of their own, since writes may have to wait for each other. Whatever may take
    long, such as lists and the object store, is not for these threads.

    Args:
        readers: Threads that read.
        writers: Threads that write; more than one are of no use to SQLite.
    """

    def __init__(self, readers: int, writers: int) -> None:
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="reader")
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix="writer")

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` gives, called in a thread that reads. Raises NoConnectionFree."""
        return await _called(self._readers, partial(function, *args, **kwargs))

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` gives, called in a thread that writes. Raises NoConnectionFree."""
        return await _called(self._writers, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Wait for what is under way."""
        self._readers.shutdown()
        self._writers.shutdown()


async def _called(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    """In the caller's context: what is logged there names the request."""
    run = partial(contextvars.copy_context().run, _unless_late, time.monotonic(), function)
    return await asyncio.get_running_loop().run_in_executor(pool, run)


def _unless_late(asked_at: float, function: Callable[[], T]) -> T:
    if time.monotonic() - asked_at > PATIENCE_SECONDS:
        raise NoConnectionFree("the database keeps all threads waiting")
    return function()
