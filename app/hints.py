"""Hints that there is work, sent from a thread of their own: no request waits for the broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Full, Queue

MOST_WAITING = 100
PACE_SECONDS = 0.02
"""Sending a hint costs more than storing a job. Fifty a second wake workers fast enough; what a
burst of jobs has beyond that is left to the dispatcher."""
LAST_SECONDS = 2.0


class HintSender:
    """Passes hints on, one after the other. What is lost here the dispatcher makes up for.

    Args:
        send: Sends one hint at a job for the device that it is told; may take its time, raises nothing.
    """

    def __init__(self, send: Callable[[str], object]) -> None:
        self._send = send
        self._wanted: Queue[str | None] = Queue(MOST_WAITING)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="hints", daemon=True)
        self._thread.start()

    def hint(self, device: str) -> None:
        """Ask for a hint at a job for `device` to be sent; forgotten if too many wait already."""
        self._want(device)

    def close(self) -> None:
        """Stop; a hint under way has `LAST_SECONDS` to arrive."""
        self._closed.set()
        self._want(None)
        self._thread.join(LAST_SECONDS)

    def _want(self, device: str | None) -> None:
        with suppress(Full):
            self._wanted.put_nowait(device)

    def _work(self) -> None:
        while not self._closed.is_set():
            device = self._wanted.get()
            if device is not None:
                self._send(device)
            self._closed.wait(PACE_SECONDS)
