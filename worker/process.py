"""A loop of the service as a process of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from models.logs import configure
from models.settings import Settings


def run_until_told(loop: Callable[[threading.Event, Settings], None]) -> None:
    """Run `loop` with an event that SIGTERM or SIGINT sets."""
    configure()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    loop(stop, Settings())
