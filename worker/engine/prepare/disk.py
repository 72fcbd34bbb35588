"""A full disk, told as such."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from worker.engine.errors import DiskFull, is_disk_full


@contextmanager
def disk_room(what: str) -> Iterator[None]:
    """Turn an error for want of room while writing `what` into DiskFull."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise DiskFull(
                f"the worker's disk is full while writing {what}",
                remedy="free space on the worker or give it a larger work folder, and submit again",
            ) from error
        raise
