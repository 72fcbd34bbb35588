"""Celery, as a carrier of hints: a message says that there may be work, the job table says which.

Each target device has a queue of its own, and a worker listens to those of the devices that it serves.
Messages may be lost, late or doubled without harm (see `models.lifecycle`), so they are acknowledged at
once, carry no data, have no result and are never revoked. Imports no torch.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog
from celery import Celery
from celery.signals import celeryd_init, setup_logging

from models import logs
from models.settings import Settings
from models.spec import DEVICES
from worker.devices import devices_served

TASK = "axforge.run_next_job"
log = structlog.get_logger(__name__)


@lru_cache(maxsize=8)
def make_celery(broker: str | None, devices: tuple[str, ...] = DEVICES) -> Celery:
    """A Celery application on a broker (`redis://`, `redis+socket://`, `filesystem:///folder`).

    None serves a process that never meets a worker: nothing can be sent. A worker listens to the queues
    of `devices`.
    """
    made = Celery("axforge", broker=_transport(broker), include=["worker.tasks"])
    made.conf.update(
        task_queues={hint_queue(device): {} for device in devices},
        task_default_queue=hint_queue(devices[0]),
        task_acks_late=False,
        worker_disable_prefetch=(broker or "").startswith("redis"),
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],
        worker_soft_shutdown_timeout=60,
        worker_enable_soft_shutdown_on_idle=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker waits for its broker as long as it takes
        broker_transport_options=_transport_options(broker),
        broker_pool_limit=2,
    )
    return made


def hint_queue(device: str) -> str:
    """The queue of hints at jobs for a device."""
    return f"axforge-{device}"


def send_hint(broker: str | None, device: str) -> bool:
    """Tell the device's workers that a job is queued. Never raises: the dispatcher makes up for what is lost.

    Returns:
        Whether the broker took it.
    """
    if broker is None:
        return False
    try:
        make_celery(broker).send_task(TASK, queue=hint_queue(device), retry=False, ignore_result=True)
    except Exception as error:  # whatever the broker's client raises, the job is safely queued
        log.warning("hint_not_sent", reason=type(error).__name__)
        return False
    return True


def waiting_hints(broker: str, *devices: str) -> int:
    """How many messages lie in the queues of `devices`, of all if none is named.

    Raises what the broker's client raises.
    """
    with make_celery(broker).connection_for_write() as connection:
        # Not `passive`: kombu looks for Redis keys without their prefix then, and finds none.
        declare = connection.default_channel.queue_declare
        return sum(int(declare(queue=hint_queue(each)).message_count) for each in devices or DEVICES)


def _transport(broker: str | None) -> str:
    if broker is None:
        return "memory://"
    return "filesystem://" if broker.startswith("filesystem:") else broker


def _transport_options(broker: str | None) -> dict[str, Any]:
    if broker is not None and broker.startswith("filesystem:"):
        folder = Path(unquote(urlsplit(broker).path))
        for name in ("messages", "control"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        return {
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
        }
    return {
        "global_keyprefix": "axforge:",
        "health_check_interval": 25,
        "socket_connect_timeout": 2,
        "max_retries": 1,
        "interval_start": 0,
        "interval_max": 0.2,
    }


@celeryd_init.connect  # type: ignore[untyped-decorator]
def _log_as_all_processes_do(instance: Any, **_: Any) -> None:
    """Before Celery says its first word. Its banner would be no log line."""
    instance.quiet = True
    from celery.apps import worker as program  # a process that only sends hints needs none of it

    program.safe_say = _say
    logs.configure("worker", Settings().log_level)


def _say(message: str, _file: object = None) -> None:
    """What Celery tells from its signal handlers, where taking a logger's lock could wait for ever."""
    line = {"event": message.strip(), "level": "warning", "service": "worker", "pid": os.getpid()}
    line |= {"timestamp": datetime.now(UTC).isoformat(), "logger": "celery.apps.worker"}
    os.write(2, (json.dumps(line) + "\n").encode())


@setup_logging.connect  # type: ignore[untyped-decorator]
def _keep_logs_as_they_are(**_: Any) -> None:
    """Celery leaves logging alone where somebody listens to this signal."""


_settings = Settings()
app = make_celery(_settings.broker, devices_served(_settings.worker_devices))
