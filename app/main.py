"""The application: what is served, and what it holds open while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

from app import problems
from app.artifacts.endpoints import router as artifacts
from app.audit.endpoints import router as audit
from app.auth import Door
from app.candidates.endpoints import router as candidates
from app.capabilities.endpoints import router as capabilities
from app.context import Context
from app.events.endpoints import router as events
from app.events.sharing import SharedReads
from app.health.endpoints import router as health
from app.hints import HintSender
from app.jobs import repository
from app.jobs.endpoints import router as jobs
from app.jobs.watch import JobState, JobWatcher
from app.keys.endpoints import router as keys
from app.metrics.endpoints import router as metrics_router
from app.metrics.service import Metrics
from app.middleware import RequestMiddleware
from app.openapi import describe
from app.parameters import parameters_are_known
from app.quotas.endpoints import router as quota
from app.rates import RateLimits
from app.settings import ApiSettings
from app.threads import DatabaseThreads
from app.uploads.endpoints import router as uploads
from app.uploads.places import UploadPlaces
from app.version import VERSION
from app.webhooks.endpoints import router as webhooks
from models import telemetry
from models.database import Database
from models.settings import Settings
from models.store import open_store
from worker.celery_app import send_hint

THREADS = 4
"""That read, and that write. More than keep one processor busy are in each other's way: Python runs one of
them at a time. Fewer would not do for a database that is some milliseconds away."""

ROUTERS = (
    jobs,
    events,
    candidates,
    artifacts,
    uploads,
    webhooks,
    quota,
    keys,
    audit,
    capabilities,
    health,
    metrics_router,
)


def create_app(settings: Settings | None = None, api: ApiSettings | None = None) -> FastAPI:
    """The service's application; settings that are left out come from the environment.

    The database's tables must be there: `alembic upgrade head`, or the embedded server, makes them.
    """
    metrics = Metrics()
    app = FastAPI(
        title="axforge",
        version=VERSION,
        lifespan=_lifespan(settings or Settings(), api or ApiSettings(), metrics),
        middleware=[Middleware(RequestMiddleware, metrics=metrics.http)],
        separate_input_output_schemas=False,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=problems.RESPONSES,
        dependencies=[Depends(parameters_are_known)],
    )
    app.state.metrics = metrics
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    describe(app)
    return app


def _lifespan(
    settings: Settings, api: ApiSettings, metrics: Metrics
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(settings.database)
        store = open_store(
            settings.store,
            spool=settings.data_dir / "spool",
            public_endpoint=api.presign_endpoint,
        )
        await run_in_threadpool(store.drop_partial_writes)
        rates = RateLimits(api, settings.broker)
        threads = DatabaseThreads(THREADS, THREADS if database.many_writers else 1)
        watcher = JobWatcher(lambda ids: threads.read(_states, database, ids), interval=api.poll_seconds)
        hints = HintSender(partial(send_hint, settings.broker))
        app.state.context = Context(
            settings=settings,
            api=api,
            database=database,
            store=store,
            watcher=watcher,
            threads=threads,
            looks=SharedReads(threads.read),
            door=Door(database, threads, api.auth),
            send_hint=hints.hint,
            uploading=UploadPlaces(api.upload_concurrency),
            rates=rates,
        )
        looking = asyncio.create_task(watcher.run())
        try:
            with telemetry.exporting("api"), metrics.reading_from(database, settings, rates):
                yield
        finally:
            watcher.close()
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await rates.close()
            await run_in_threadpool(hints.close)
            await run_in_threadpool(threads.close)
            database.close()

    return lifespan


def _states(database: Database, ids: Collection[str]) -> dict[str, JobState]:
    with database.session() as session:
        return repository.states(session, ids)
