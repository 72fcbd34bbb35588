"""A full disk, told as such."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from worker.engine.errors import DiskFull

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_room(what: str) -> Iterator[None]:
    """Turn an OSError for want of room while writing `what` into DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM or "No space left on device" in str(error):
            raise DiskFull(
                f"the worker's disk is full while writing {what}",
                remedy="free space on the worker or give it a larger work folder, and submit again",
            ) from error
        raise
