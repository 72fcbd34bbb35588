"""Waiting for jobs to change: one task asks the database for all clients that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from sqlalchemy.exc import SQLAlchemyError

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class JobState:
    """What tells that a job has changed."""

    version: int
    done: bool


@dataclass
class _Topic:
    state: JobState | None = None
    watchers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class JobWatcher:
    """Tells many waiting clients of changes with one query every `interval` seconds.

    Args:
        read: The states of the jobs of these ids, from the database.
        interval: Seconds between two looks. Nothing is asked while nobody waits.
    """

    def __init__(
        self, read: Callable[[Collection[str]], Awaitable[Mapping[str, JobState]]], *, interval: float
    ) -> None:
        self._read = read
        self._interval = interval
        self._topics: dict[str, _Topic] = {}
        self._wanted = asyncio.Event()
        self.closed = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._wanted.wait()
            await self._look()
            await asyncio.sleep(self._interval)

    def close(self) -> None:
        """Let go of everybody who waits: the service stops."""
        self.closed = True
        for topic in self._topics.values():
            topic.changed.set()

    @contextmanager
    def watch(self, job_id: str) -> Iterator[Watch]:
        """Keep an eye on one job."""
        topic = self._topics.setdefault(job_id, _Topic())
        topic.watchers += 1
        self._wanted.set()
        try:
            yield Watch(self, topic)
        finally:
            topic.watchers -= 1
            if not topic.watchers:
                del self._topics[job_id]
            if not self._topics:
                self._wanted.clear()

    async def _look(self) -> None:
        try:
            states = await self._read(list(self._topics))
        except SQLAlchemyError as error:
            log.warning("watching_failed", error=type(error).__name__)
            return
        for job_id, state in states.items():
            topic = self._topics.get(job_id)
            if topic is not None and topic.state != state:
                topic.state = state
                topic.changed.set()
                topic.changed = asyncio.Event()
                # Many jobs may have changed, and many clients wait for each of them: without a pause
                # all other requests would wait until the last of them was told.
                await asyncio.sleep(0)


class Watch:
    """One client's view of a job that is watched."""

    def __init__(self, watcher: JobWatcher, topic: _Topic) -> None:
        self._watcher = watcher
        self._topic = topic

    async def until(self, satisfied: Callable[[JobState], bool], seconds: float) -> bool:
        """Wait until the job's state satisfies; False if `seconds` passed or the service stops."""
        try:
            async with asyncio.timeout(seconds):
                while not self._watcher.closed:
                    changed = self._topic.changed
                    if self._topic.state is not None and satisfied(self._topic.state):
                        return True
                    await changed.wait()
        except TimeoutError:
            return False
        return False
