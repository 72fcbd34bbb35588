"""A sign of life that a container's health check can read for next to nothing.

The processes without an HTTP face touch the file named by AXFORGE_ALIVE_FILE as they go round;
`python -m worker.alive` fails when that was too long ago. It asks no broker and no database: a
check that fails with them would have every worker restarted when they do, running jobs and all.
And it imports next to nothing, because it runs beside the latency measurements.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

VARIABLE = "AXFORGE_ALIVE_FILE"
TICK_SECONDS = 15.0
STALE_SECONDS = 180.0  # many rounds of every loop


class Pulse(threading.Event):
    """An event to be told to stop by; whoever asks it is alive."""

    def is_set(self) -> bool:
        touch()
        return super().is_set()


def touch() -> None:
    """Say that this process goes round. Without the variable nobody wants to know."""
    path = os.environ.get(VARIABLE)
    if path:
        Path(path).touch()


def complaint(path: str | None, now: float) -> str | None:
    """What is wrong, or None.

    Args:
        now: Seconds since the epoch.
    """
    if not path:
        return f"{VARIABLE} is not set: nothing tells whether the process is alive."
    try:
        age = now - Path(path).stat().st_mtime
    except FileNotFoundError:
        return f"{path} is not there: the process has not begun its work."
    return None if age <= STALE_SECONDS else f"The last sign of life is {age:.0f} seconds old."


if __name__ == "__main__":
    sys.exit(complaint(os.environ.get(VARIABLE), time.time()))
