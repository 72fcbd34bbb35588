"""A loop of the service as a process of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import structlog

from models.logs import configure
from models.settings import Settings
from worker.alive import Pulse

log = structlog.get_logger(__name__)


def run_until_told(service: str, loop: Callable[[threading.Event, Settings], None]) -> None:
    """Run `loop` with an event that SIGTERM or SIGINT sets."""
    settings = Settings()
    configure(service, settings.log_level)
    stop = Pulse()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("started")
    loop(stop, settings)
    log.info("stopped")
