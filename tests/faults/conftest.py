"""The service on SQLite and on a Postgres of our own, each with a Redis of our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.store import Store, open_store
from tests.faults.marks import POSTGRES
from tests.faults.servers import PostgresServer, RedisServer, postgres_is_installed
from tests.faults.service import Service


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    if not postgres_is_installed():
        pytest.skip("Postgres is not installed")
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", POSTGRES])
def service(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> Iterator[Service]:
    """Empty database and queue; no process is started yet."""
    redis_server.client.flushall()
    postgres = request.getfixturevalue("postgres_server") if request.param == "postgresql" else None
    url = f"sqlite:///{tmp_path / 'axforge.db'}" if postgres is None else postgres.empty_database()
    with Service(tmp_path, url, redis_server, postgres) as service:
        yield service


@pytest.fixture
def store(service: Service) -> Store:
    return open_store(service.settings.store)
