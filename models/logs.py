"""Logs of every process of the service: one line an event, JSON unless a person is watching."""

from __future__ import annotations

import logging
import os
import sys
import threading
from types import TracebackType
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from models.redaction import redact

LogLevel = Literal["debug", "info", "warning", "error"]
# Libraries that tell every statement or request at `info`, where only their warnings matter.
CHATTY = (
    "httpx",
    "httpcore",
    "urllib3",
    "redis",
    "kombu",
    "amqp",
    "alembic",
    "celery.worker.strategy",
    "celery.app.trace",
)


def configure(service: str, level: LogLevel = "info") -> None:
    """Send the logs of this process and of its libraries to standard error in one form.

    Uncaught exceptions and Python's warnings become log lines too. Tracebacks show no values of
    variables, and what looks like a credential, or is one of the environment's, is made unreadable.

    Args:
        service: Which part of the service this process is: `api`, `worker`, `runner`, ...
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(service),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Redacting(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_last_steps(),
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.lastResort = handler  # for loggers that keep to themselves, such as that of Celery's pool
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def bound_request_id() -> str | None:
    """The id of the request that this context serves, if it serves one."""
    bound = structlog.contextvars.get_contextvars().get("request_id")
    return None if bound is None else str(bound)


class _Redacting(structlog.stdlib.ProcessorFormatter):
    """Redacts the finished line, so that no field and no traceback is overlooked."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _named(service: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        event["pid"] = os.getpid()
        return event

    return add


def _last_steps() -> list[Processor]:
    if sys.stderr.isatty():
        # Plain tracebacks: others show the values of variables, and these may be secrets.
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.UnicodeDecoder(),
        structlog.processors.JSONRenderer(),
    ]


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("uncaught").critical("uncaught_exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is None or issubclass(given.exc_type, SystemExit):
        return
    _log_uncaught(given.exc_type, given.exc_value, given.exc_traceback)
