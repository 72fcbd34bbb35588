"""Engine and sessions, for SQLite and Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Interval, create_engine, event, func, literal
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session

from models.base import UtcDateTime, utc_now

BUSY_TIMEOUT_MS = 30_000
CONNECT_TIMEOUT_SECONDS = "10"


class Database:
    """Sessions on one database. Make one a process, after any fork; close it at the end.

    Args:
        url: `sqlite:///path` or `postgresql://user@host/name`.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgres(parsed)
        self._writer = self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session to read with. Nothing is committed; objects stay readable afterwards."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session to write with: committed at the end, rolled back on an exception.

        On SQLite it takes the write lock at its begin, so that a read followed by a write never
        meets a stale snapshot. Keep it short: no computing, no network inside.
        """
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()


def now(session: Session) -> ColumnElement[datetime]:
    """The current time as an expression: the database's own clock where many machines share it."""
    if session.get_bind().dialect.name == "postgresql":
        return func.statement_timestamp(type_=UtcDateTime())
    return literal(utc_now(), UtcDateTime())


def after(session: Session, seconds: float) -> ColumnElement[datetime]:
    """The time `seconds` from now (before now if negative), by the same clock as `now`."""
    if session.get_bind().dialect.name == "postgresql":
        moment = func.statement_timestamp(type_=UtcDateTime())
        return moment + literal(timedelta(seconds=seconds), Interval())
    return literal(utc_now() + timedelta(seconds=seconds), UtcDateTime())


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _postgres(url: URL) -> Engine:
    # A server that does not answer must not hold up a heartbeat until the lease has run out.
    url = url.update_query_dict({"connect_timeout": CONNECT_TIMEOUT_SECONDS} | dict(url.query))
    return create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=15)
