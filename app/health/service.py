"""Asks the parts that the service stands on: all at once, each for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.bounded import Threads
from app.context import Context
from app.health import repository
from app.health.schemas import Part, Readiness
from app.problems import NotReady
from migrations import is_behind
from models.store import StoreError
from worker.celery_app import waiting_hints

THREADS_A_PART = 2
log = structlog.get_logger(__name__)

Name = Literal["database", "store", "broker"]


@dataclass(frozen=True)
class Probe:
    """How a part is asked. `ask` gives what is worth telling, or raises `Down` or one of `errors`.

    `down` is all that is told of an error: others name addresses and users.
    """

    name: Name
    ask: Callable[[Context], str]
    errors: type[Exception] | tuple[type[Exception], ...]
    down: str
    status: Literal["down", "degraded"] = "down"


class Down(Exception):
    """The part answers, but does not serve; the message may be shown."""


async def readiness(context: Context) -> Readiness:
    """The state of every part.

    Raises:
        NotReady: a part without which nothing can be served is down.
    """
    parts = await asyncio.gather(*(_ask(context, probe) for probe in PROBES))
    down = [part for part in parts if part.status == "down"]
    if down:
        raise NotReady(
            " ".join(part.detail for part in down),
            parts=[part.model_dump(mode="json") for part in parts],
            remedy="Try again later.",
        )
    degraded = any(part.status == "degraded" for part in parts)
    return Readiness(status="degraded" if degraded else "ok", parts=list(parts))


async def _ask(context: Context, probe: Probe) -> Part:
    threads = context.probing.setdefault(probe.name, Threads(THREADS_A_PART))
    try:
        detail = await threads.within(context.api.probe_seconds, lambda: probe.ask(context))
    except TimeoutError:
        return _down(probe, f"{probe.down} (no answer in {context.api.probe_seconds:g} s)", "timeout")
    except Down as error:
        return _down(probe, str(error), "down")
    except probe.errors as error:
        return _down(probe, probe.down, type(error).__name__)
    return Part(name=probe.name, status="ok", detail=detail)


def _down(probe: Probe, detail: str, error: str) -> Part:
    log.warning("part_down", part=probe.name, error=error)
    return Part(name=probe.name, status=probe.status, detail=detail)


def _database(context: Context) -> str:
    with context.database.session() as session:
        repository.probe(session)
        behind = is_behind(repository.revision(session))
    if behind:
        raise Down("The database's tables are older than this version needs: run `python -m migrations`.")
    return "answers; its tables are up to date"


def _store(context: Context) -> str:
    context.store.probe()
    return "answers"


def _broker(context: Context) -> str:
    if context.settings.broker is None:
        raise Down("No broker is set; jobs are stored only.")
    return f"answers; {waiting_hints(context.settings.broker)} hints wait"


PROBES = (
    Probe(
        "database", _database, SQLAlchemyError, "The database does not answer, or its tables are not there."
    ),
    Probe("store", _store, (StoreError, OSError), "The object store does not answer."),
    # Never down: a job is safe without it and found by the dispatcher. Each client has its own errors.
    Probe("broker", _broker, Exception, "The broker does not answer; jobs start later.", "degraded"),
)
