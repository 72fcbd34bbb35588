"""Events of a job as they happen, over connections that may break."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Protocol

import httpx

from axforge import sse
from axforge.answers import job_path, parse
from axforge.errors import ConnectionFailed, ProblemError
from axforge.retries import RetryPolicy
from axforge.transport import Transport
from axforge.types import Event, Job

STREAM = "text/event-stream"
SILENCE = 90.0
"""Seconds without a byte after which a stream counts as broken; servers send comments in between."""
POLL_EVERY = 2.0


class Source(Protocol):
    """What the follower asks when a stream ends or there is none."""

    def job(self, job_id: str) -> Job:
        """The job as it is now."""

    def events(self, job_id: str, after: int = 0) -> list[Event]:
        """Events behind `after`."""


class EventFollower:
    """One walk through the events of one job; `last` is the id of the latest event handed out."""

    def __init__(
        self, source: Source, transport: Transport, policy: RetryPolicy, job_id: str, after: int
    ) -> None:
        self._source = source
        self._transport = transport
        self._policy = policy
        self._job_id = job_id
        self.last = after
        self._failures = 0

    def follow(self) -> Iterator[Event]:
        """Every event once, in order, until the job is done.

        Raises `ConnectionFailed` when the connection breaks again and again without an event.
        """
        streams = True
        while True:
            try:
                if streams:
                    streams = yield from self._stream()
            except httpx.TransportError as error:
                self._wait_after(error)
            job = self._source.job(self._job_id)
            if job.done or not streams:
                yield from self._missed()
            if job.done:
                return
            if not streams:
                self._transport.pause(POLL_EVERY)

    def _stream(self) -> Generator[Event, None, bool]:
        """Events of one connection; the generator's value says whether the server streams at all."""
        headers = {"Accept": STREAM, "Cache-Control": "no-store"}
        if self.last:
            headers["Last-Event-ID"] = str(self.last)
        timeout = httpx.Timeout(30.0, read=SILENCE)
        path = f"{job_path(self._job_id)}/events"
        try:
            with self._transport.stream(path, headers=headers, timeout=timeout) as response:
                if not response.headers.get("content-type", "").startswith(STREAM):
                    return False
                for message in sse.parse(response.iter_text()):
                    if message.event == "end":
                        break
                    if message.event != "event":
                        continue
                    event = parse(Event, message.data, path)
                    if event.id > self.last:
                        yield self._accept(event)
        except ProblemError as problem:
            if problem.status != httpx.codes.NOT_ACCEPTABLE:
                raise
            return False
        return True

    def _missed(self) -> Iterator[Event]:
        for event in self._source.events(self._job_id, after=self.last):
            yield self._accept(event)

    def _accept(self, event: Event) -> Event:
        self.last, self._failures = event.id, 0
        return event

    def _wait_after(self, error: httpx.TransportError) -> None:
        wait = self._policy.wait_before(self._failures, None)
        if wait is None:
            raise ConnectionFailed(f"the event stream of {self._job_id} broke off: {error}") from error
        self._failures += 1
        self._transport.pause(wait)
