"""What the endpoints work with, made once when the application starts, and given by dependency.

Dependencies that only look something up are coroutines: FastAPI runs plain functions in a thread
of their own, and each such hop costs a request more than the look itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from app.auth import Door, caller_of
from app.bounded import Threads
from app.events.look import Look
from app.events.sharing import SharedReads
from app.jobs.watch import JobWatcher
from app.rates import RateLimits
from app.settings import ApiSettings
from app.threads import DatabaseThreads
from app.uploads.places import UploadPlaces
from models.database import Database
from models.settings import Settings
from models.store import Store


@dataclass(frozen=True)
class Context:
    """The parts of a running service."""

    settings: Settings
    api: ApiSettings
    database: Database
    store: Store
    watcher: JobWatcher
    threads: DatabaseThreads
    looks: SharedReads[Look]
    door: Door
    send_hint: Callable[[str], None]
    uploading: UploadPlaces
    rates: RateLimits
    probing: dict[str, Threads] = field(default_factory=dict)


async def context_of(request: Request) -> Context:
    """The context of the application that serves `request`."""
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


async def tenant_of(request: Request) -> str:
    """Whose things a request sees. Everything is asked and written under this name."""
    return (await caller_of(request)).tenant


Service = Annotated[Context, Depends(context_of)]
Tenant = Annotated[str, Depends(tenant_of)]
