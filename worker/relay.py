"""Passes on what a run's process says, so that it is log lines whoever speaks.

The run's own log is JSON lines and is passed on as it is. Progress bars, messages of compiled
libraries and the interpreter's last words after a crash are not: each such line becomes the text
of a log line that names the job.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import structlog

LONGEST_LINE = 1 << 20
LAST_WORDS_SECONDS = 5.0
log = structlog.get_logger(__name__)


@contextmanager
def relaying(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass on what comes from `process.stdout` until it ends, or its process is gone for some seconds.

    A grandchild may keep the pipe open longer than that; nobody waits for it.
    """
    assert process.stdout is not None
    bound = structlog.contextvars.get_contextvars()
    thread = threading.Thread(target=_pass_on, args=(process.stdout, bound), name="relay", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(LAST_WORDS_SECONDS)


def _pass_on(said: IO[bytes], bound: dict[str, object]) -> None:
    # A pipe read by one thread, and a line that is whole by its size or its end: no line is mixed with
    # another process's, since each goes out in one write.
    with said, structlog.contextvars.bound_contextvars(**bound):
        while line := said.readline(LONGEST_LINE):
            if _is_log_line(line):
                sys.stderr.flush()
                os.write(sys.stderr.fileno(), line)
            elif text := line.decode(errors="replace").strip():
                # A progress bar overwrites itself: what it shows last is what a terminal would.
                log.info("run_said", text=text.rpartition("\r")[2])


def _is_log_line(line: bytes) -> bool:
    if not (line.startswith(b"{") and line.endswith(b"}\n")):
        return False
    try:
        return "event" in json.loads(line)
    except ValueError:
        return False
