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
        send: Sends one hint; may take its time, raises nothing.
    """

    def __init__(self, send: Callable[[], object]) -> None:
        self._send = send
        self._wanted: Queue[None] = Queue(MOST_WAITING)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="hints", daemon=True)
        self._thread.start()

    def hint(self) -> None:
        """Ask for a hint to be sent; forgotten if too many wait already."""
        with suppress(Full):
            self._wanted.put_nowait(None)

    def close(self) -> None:
        """Stop; a hint under way has `LAST_SECONDS` to arrive."""
        self._closed.set()
        self.hint()
        self._thread.join(LAST_SECONDS)

    def _work(self) -> None:
        while not self._closed.is_set():
            self._wanted.get()
            self._send()
            self._closed.wait(PACE_SECONDS)
