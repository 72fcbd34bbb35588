"""`axforge serve`: the service on this machine."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import structlog
import typer
import uvicorn
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from app.auth import is_loopback
from app.keys import repository
from app.main import create_app
from app.settings import ApiSettings, Auth
from models.database import Database
from models.logs import configure
from models.settings import Settings
from worker.embedded import FolderInUse, stack

log = structlog.get_logger(__name__)

GRACE_SECONDS = 10
BACKLOG = 128


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = 8000,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Run worker, queue, database and store here too.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder of all local state; default: AXFORGE_DATA_DIR or ./data."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Without API keys, serve everybody who reaches the address.")
    ] = False,
) -> None:
    """Serve the HTTP API until SIGTERM or SIGINT.

    Without --embedded the database, broker and store are those of the environment (AXFORGE_DATABASE_URL,
    AXFORGE_BROKER_URL, AXFORGE_STORE_URL), and workers run elsewhere.
    """
    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    api = ApiSettings()
    if insecure and api.auth is Auth.AUTO:
        api = api.model_copy(update={"auth": Auth.OPEN})
    if not is_loopback(host) and api.auth is Auth.AUTO and not _has_keys(settings):
        _refuse(
            f"On {host} everybody who reaches this service could run jobs: there are no API keys yet. "
            "Create one (axforge keys create), or set AXFORGE_API_AUTH=required and create one later, "
            "or listen on 127.0.0.1, or say --insecure."
        )
    configure("api", settings.log_level)
    with _listening(host, port) as listener, _orderly_end():
        if not embedded:
            _run(settings, api, listener)
            return
        try:
            with stack(settings.data_dir, settings) as filled_in:
                _run(filled_in, api, listener)
        except FolderInUse:
            _refuse(f"Another embedded server works in {settings.data_dir}; give another --data-dir.")


class _Server(uvicorn.Server):
    """Lets go of the clients that wait for events before it waits for their requests to end."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.context.watcher.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def _run(settings: Settings, api: ApiSettings, listener: socket.socket) -> None:
    config = uvicorn.Config(
        create_app(settings, api),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        lifespan="on",
    )
    _Server(config).run(sockets=[listener])


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Taken before anything is started, so that a port in use is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        _refuse(f"Cannot listen on {host} port {port}: {error.strerror}.")
    with listener:
        # Connections inherit it. asyncio sets it for listeners of its own only, and without it every
        # answer on a kept connection waits for the client's delayed acknowledgement, some 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = f"[{host}]" if ":" in host else host
        log.info("listening", url=f"http://{address}:{listener.getsockname()[1]}")
        yield listener


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM and SIGINT end the command with status 0, after everything it started is stopped.

    uvicorn sends itself the signal again when it has shut down; it arrives here.
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _has_keys(settings: Settings) -> bool:
    """Whether a key was ever created; of a database that cannot tell, it is not assumed."""
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return False
    database = Database(settings.database)
    try:
        with database.session() as session:
            return repository.any_exists(session)
    except DBAPIError as error:
        typer.echo(f"Whether there are API keys is not known: {type(error.orig).__name__}.", err=True)
        return False
    finally:
        database.close()


def _refuse(reason: str) -> NoReturn:
    typer.echo(reason, err=True)
    raise typer.Exit(2)
