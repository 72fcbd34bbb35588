"""Watches a process that works under a lease. Imports no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Literal

import structlog
from sqlalchemy.exc import DBAPIError

from models.lifecycle import Lease
from models.settings import Settings
from worker.leash import leashed
from worker.relay import relaying

EXIT_DONE = 0
EXIT_STOPPED = 75  # EX_TEMPFAIL: checkpointed, to be gone on with
EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE: a service that the process needs does not answer
POLL_SECONDS = 0.2
LOST_GRACE_SECONDS = 5.0  # a run that wrote its end an instant ago may leave by itself

Reason = Literal["cancel", "shutdown", "lost"]
log = structlog.get_logger(__name__)


def watched(
    command: list[str],
    environment: dict[str, str],
    settings: Settings,
    *,
    stopping: Callable[[], bool],
    beat: Callable[[], Lease],
) -> tuple[int, Reason | None]:
    """Run a command until it ends, with the worker's settings; its exit code, and why it was told to stop.

    What it says is passed on to the log. It does not outlive this process.
    """
    process = subprocess.Popen(
        leashed(command, signal.SIGKILL),
        env=os.environ | settings.environment() | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # signals for the worker's group reach the process through us only
    )
    with relaying(process):
        try:
            reason = Watch(process, settings, stopping, beat).until_exit()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    return process.returncode, reason


class Watch:
    """Waits for a process, heart beating, and stops it when there is a reason to.

    `beat` extends the lease in a transaction of its own and may raise DBAPIError: the process is
    stopped only once a whole lease went by.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        settings: Settings,
        stopping: Callable[[], bool],
        beat: Callable[[], Lease],
    ) -> None:
        self._process = process
        self._settings = settings
        self._stopping = stopping
        self._beat_once = beat
        self._reason: Reason | None = None
        self._kill_at = float("inf")
        self._beat_at = time.monotonic() + self._settings.heartbeat_seconds
        self._lease_until = time.monotonic() + self._settings.lease_seconds

    def until_exit(self) -> Reason | None:
        """Returns why the process was told to stop, or None if it ended by itself."""
        while True:
            try:
                self._process.wait(timeout=POLL_SECONDS)
                return self._reason
            except subprocess.TimeoutExpired:
                self._look()

    def _look(self) -> None:
        moment = time.monotonic()
        if moment >= self._beat_at:
            self._beat()
        if self._stopping():
            self._stop("shutdown")
        if moment >= self._kill_at:
            self._process.kill()

    def _beat(self) -> None:
        self._beat_at = time.monotonic() + self._settings.heartbeat_seconds
        sent = time.monotonic()
        try:
            lease = self._beat_once()
        except DBAPIError as error:
            log.warning("heartbeat_failed", reason=type(error.orig).__name__)
            if time.monotonic() >= self._lease_until:
                self._stop("lost")
            return
        if not lease.held:
            self._stop("lost")
            return
        self._lease_until = sent + self._settings.lease_seconds
        if lease.cancel_requested:
            self._stop("cancel")

    def _stop(self, reason: Reason) -> None:
        if self._reason in (reason, "lost"):
            return
        grace = LOST_GRACE_SECONDS if reason == "lost" else self._settings.stop_grace_seconds
        self._kill_at = min(self._kill_at, time.monotonic() + grace)
        # Cancelled stays cancelled when the worker shuts down as well.
        if self._reason != "cancel" or reason == "lost":
            self._reason = reason
        self._process.terminate()
