"""A worker that has no job helps another worker's: claims a share and runs `worker.helper` for it.

As `worker.supervisor` does for jobs, it extends the lease, passes on what the operator asks for, and
gives back what the helper could not finish. Imports no torch.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

import structlog
from sqlalchemy.exc import DBAPIError

from models import shards, telemetry
from models.database import Database
from models.lifecycle import Lease
from models.settings import Settings
from models.shards import ClaimedShard
from worker.devices import devices_served
from worker.watch import EXIT_DONE, EXIT_STOPPED, watched
from worker.workfolder import helper_folder

log = structlog.get_logger(__name__)


def helper_command(shard: ClaimedShard) -> list[str]:
    """The process that does the work."""
    return [sys.executable, "-m", "worker.helper", shard.job_id, shard.holder]


def help_a_job(
    database: Database,
    settings: Settings,
    stopping: Callable[[], bool],
    holder: str,
    command: Callable[[ClaimedShard], list[str]],
) -> str | None:
    """Help with a job that wants it until there is nothing left to help with. Its id, or None."""
    with database.transaction() as session:
        shard = shards.claim(
            session,
            holder,
            settings.lease_seconds,
            running_limit=settings.quota_running_jobs,
            devices=devices_served(settings.worker_devices),
        )
    if shard is None:
        return None
    origin = {} if shard.request_id is None else {"request_id": shard.request_id}
    with (
        structlog.contextvars.bound_contextvars(job_id=shard.job_id, holder=holder, **origin),
        telemetry.span(
            "job.help",
            parent=shard.trace_context or {},
            kind="consumer",
            axforge__job_id=shard.job_id,
            axforge__stage=shard.stage,
        ),
    ):
        _see_through(database, settings, stopping, shard, command(shard))
    return shard.job_id


def _see_through(
    database: Database,
    settings: Settings,
    stopping: Callable[[], bool],
    shard: ClaimedShard,
    command: list[str],
) -> None:
    def beat() -> Lease:
        with database.transaction() as session:
            held = shards.heartbeat(session, shard.job_id, shard.holder, settings.lease_seconds)
        return Lease(held=held, cancel_requested=False)

    log.info("help_started", stage=shard.stage)
    code, reason = watched(command, telemetry.environment(), settings, stopping=stopping, beat=beat)
    log.info("help_ended", exit_code=code, reason=reason)
    shutil.rmtree(helper_folder(settings.data_dir, shard.job_id, shard.holder), ignore_errors=True)
    failed = reason is None and code not in (EXIT_DONE, EXIT_STOPPED)
    try:
        database.patiently(
            lambda session: shards.give_back(session, shard.job_id, shard.holder, failed=failed),
            settings.lease_seconds,
        )
    except DBAPIError as error:  # the lease runs out by itself
        log.error("share_not_given_back", reason=type(error.orig).__name__)
