"""A process whose clock is wrong by AXFORGE_CLOCK_AHEAD seconds: `python -m tests.faults.clock MODULE`."""

from __future__ import annotations

import os
import runpy
import sys
from datetime import datetime, timedelta, tzinfo
from typing import Self

import models.base


def shift() -> None:
    """From now on the service's code reads the wrong time in this process, and in those forked from it."""
    ahead = timedelta(seconds=float(os.environ.get("AXFORGE_CLOCK_AHEAD", "0")))

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + ahead

    models.base.datetime = Wrong  # type: ignore[misc]


if __name__ == "__main__":
    shift()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__")
