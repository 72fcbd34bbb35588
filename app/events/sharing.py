"""Reading once for many: streams that stand at the same event of a job ask the database together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class SharedReads(Generic[Result]):
    """Joins those who ask the same while the answer is under way.

    Who joins gets an answer that may be as old as the first one's question. That is enough for a
    stream: it compares the version that it got with the newest and asks again.

    Args:
        run: Calls a function in a thread.
    """

    def __init__(self, run: Callable[[Callable[[], Result]], Coroutine[Any, Any, Result]]) -> None:
        self._run = run
        self._under_way: dict[Hashable, asyncio.Task[Result]] = {}

    async def read(self, key: Hashable, read: Callable[[], Result]) -> Result:
        """What `read`, called in a thread, returns; once for all who give the same key meanwhile."""
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._run(read))
            task.add_done_callback(lambda _: self._under_way.pop(key))
            self._under_way[key] = task
        # A client that goes away takes nothing from the others.
        return await asyncio.shield(task)
