"""Connections: limits on statements and transactions, and a pool that gets over a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.errors import QueryCanceled
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from models.database import Database
from models.settings import PoolSettings
from tests.models.databases import fresh_database


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with fresh_database("postgresql", tmp_path) as url:
        yield url


def test_limits_of_the_environment_reach_the_server(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXFORGE_DATABASE_STATEMENT_SECONDS", "7")
    monkeypatch.setenv("AXFORGE_DATABASE_IDLE_TRANSACTION_SECONDS", "9")
    database = Database(url)
    with database.session() as session:
        assert session.execute(text("SHOW statement_timeout")).scalar_one() == "7s"
        assert session.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one() == "9s"
        # The options of the URL hold as well.
        assert session.execute(text("SHOW search_path")).scalar_one() in url
    database.close()


def test_a_statement_that_takes_too_long_is_ended(url: str) -> None:
    database = Database(url, PoolSettings(statement_seconds=0.05))
    with database.session() as session, pytest.raises(OperationalError) as caught:
        session.execute(text("SELECT pg_sleep(60)"))
    assert isinstance(caught.value.orig, QueryCanceled)
    database.close()


def test_connections_of_a_process_are_bounded(url: str) -> None:
    database = Database(url, PoolSettings(pool_size=1, max_overflow=1, pool_timeout_seconds=0.05))
    with database.engine.connect(), database.engine.connect(), pytest.raises(NoConnectionFree):
        database.engine.connect()
    database.close()


def test_a_connection_that_the_server_ended_is_replaced(url: str) -> None:
    database, other = Database(url, PoolSettings(pool_size=1, max_overflow=0)), Database(url)
    with database.session() as session:
        before = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with other.session() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": before})
    with database.session() as session:
        assert session.execute(text("SELECT pg_backend_pid()")).scalar_one() != before
    database.close()
    other.close()


def test_the_server_is_not_asked_before_every_use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(url, PoolSettings(pool_size=1, max_overflow=0))
    asked: list[object] = []
    monkeypatch.setattr(database.engine.dialect, "do_ping", asked.append)
    for _ in range(3):
        with database.session() as session:
            session.execute(text("SELECT 1"))
    assert asked == []
    monkeypatch.setattr("models.database.ASKED_AFTER_SECONDS", 0.0)
    with database.session() as session:
        session.execute(text("SELECT 1"))
    assert len(asked) == 1
    database.close()
