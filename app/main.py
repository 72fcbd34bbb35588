"""The application: what is served, and what it holds open while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import anyio
from fastapi import Depends, FastAPI
from starlette.middleware import Middleware

from app import problems
from app.artifacts.endpoints import router as artifacts
from app.candidates.endpoints import router as candidates
from app.capabilities.endpoints import router as capabilities
from app.context import Context
from app.events.endpoints import router as events
from app.health.endpoints import router as health
from app.jobs import repository
from app.jobs.endpoints import router as jobs
from app.jobs.watch import JobState, JobWatcher
from app.middleware import RequestMiddleware
from app.openapi import describe
from app.parameters import refuse_unknown
from app.settings import ApiSettings
from app.uploads.endpoints import router as uploads
from app.version import VERSION
from models.database import Database
from models.settings import Settings
from models.store import open_store
from worker.celery_app import send_hint

ROUTERS = (jobs, events, candidates, artifacts, uploads, capabilities, health)


def create_app(settings: Settings | None = None, api: ApiSettings | None = None) -> FastAPI:
    """The service's application; settings that are left out come from the environment.

    The database's tables must be there: `alembic upgrade head`, or the embedded server, makes them.
    """
    app = FastAPI(
        title="axforge",
        version=VERSION,
        lifespan=_lifespan(settings or Settings(), api or ApiSettings()),
        middleware=[Middleware(RequestMiddleware)],
        separate_input_output_schemas=False,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=problems.RESPONSES,
        dependencies=[Depends(refuse_unknown)],
    )
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    describe(app)
    return app


def _lifespan(settings: Settings, api: ApiSettings) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(settings.database)
        watcher = JobWatcher(partial(_states, database), interval=api.poll_seconds)
        app.state.context = Context(
            settings=settings,
            api=api,
            database=database,
            store=open_store(settings.store, spool=settings.data_dir / "spool"),
            watcher=watcher,
            send_hint=partial(send_hint, settings.broker),
            uploading=anyio.CapacityLimiter(api.upload_concurrency),
        )
        looking = asyncio.create_task(watcher.run())
        try:
            yield
        finally:
            watcher.close()
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            database.close()

    return lifespan


def _states(database: Database, ids: Collection[str]) -> dict[str, JobState]:
    with database.session() as session:
        return repository.states(session, ids)
