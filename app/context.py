"""What the endpoints work with, made once when the application starts, and given by dependency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import anyio
from fastapi import Depends, Request

from app.jobs.watch import JobWatcher
from app.settings import ApiSettings
from models.database import Database
from models.job import DEFAULT_TENANT
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
    send_hint: Callable[[], bool]
    uploading: anyio.CapacityLimiter


def context_of(request: Request) -> Context:
    """The context of the application that serves `request`."""
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


def tenant_of() -> str:
    """Whose things a request sees. Everything is asked and written under this name."""
    return DEFAULT_TENANT


Service = Annotated[Context, Depends(context_of)]
Tenant = Annotated[str, Depends(tenant_of)]
