"""Engine and sessions, for SQLite and Postgres."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    ColumnExpressionArgument,
    Connection,
    Double,
    Engine,
    Interval,
    cast,
    create_engine,
    event,
    func,
    literal,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import InterfaceError, InternalError, InvalidatePoolError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from models import tally, usage
from models.base import UtcDateTime, utc_now
from models.settings import PoolSettings

BUSY_TIMEOUT_MS = 30_000
# Of libpq. A server that does not answer must not hold up a heartbeat until the lease has run out,
# and a connection whose other end is gone must be found out within a lease.
CONNECTING = {
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
PAUSE_SECONDS = 0.5
ASKED_AFTER_SECONDS = 5.0
"""A connection that rested for so long is tried before it is used: what is between may have dropped it."""
# The server is away or busy, or cut the connection; InternalError when it did so for idleness.
UNANSWERED = (OperationalError, InterfaceError, InternalError)

T = TypeVar("T")


class Database:
    """Sessions on one database. Make one a process, after any fork; close it at the end.

    Args:
        url: `sqlite:///path` or `postgresql://user@host/name`.
        pool: Connections and time limits on Postgres; default: those of the environment.
    """

    def __init__(self, url: str, pool: PoolSettings | None = None) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            self.engine = _sqlite(parsed)
        else:
            self.engine = _postgres(parsed, pool or PoolSettings())
        # SQLite has one writer at a time and lets the others sleep and try again: the threads of a
        # process rather form a queue.
        self._turn = RLock() if self.engine.dialect.name == "sqlite" else nullcontext()
        self.many_writers = self.engine.dialect.name != "sqlite"
        self._reader = _for_reading(self.engine)
        self._writer = self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session to read with; objects stay readable afterwards."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read rows with. Without a session and its objects, what every request asks
        costs less than half as much."""
        with self._reader.connect() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session to write with: committed at the end, rolled back on an exception.

        On SQLite it takes the write lock at its begin, so that a read followed by a write never
        meets a stale snapshot. Keep it short: no computing, no network inside.
        """
        with self._turn, Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session
            usage.write(session)
            tally.write(session)

    def patiently(self, write: Callable[[Session], T], seconds: float) -> T:
        """Do `write` in a transaction, again while the database does not answer, for that long.

        The connection may be lost after the commit and before its answer: `write` must find out by
        itself that it was done before.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                with self.transaction() as session:
                    return write(session)
            except UNANSWERED:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_SECONDS)

    @contextmanager
    def rehearsal(self) -> Iterator[Session]:
        """A session like that of `transaction`, rolled back at the end: what would be done is not done."""
        with Session(self._writer, expire_on_commit=False) as session:
            yield session
            session.rollback()

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


def seconds_since(
    session: Session, moment: ColumnExpressionArgument[datetime | None]
) -> ColumnElement[float]:
    """The seconds from a column's time until now, to the millisecond, by the same clock as `now`."""
    if session.get_bind().dialect.name == "postgresql":
        return cast(func.extract("epoch", func.statement_timestamp() - moment), Double())
    return (func.julianday(now(session)) - func.julianday(moment)) * 86400.0


def _for_reading(engine: Engine) -> Engine:
    """Postgres shows every statement its own snapshot anyway (READ COMMITTED), so a read needs no
    transaction around it, which would cost two more exchanges with the server. What does without one
    there does so on SQLite."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="AUTOCOMMIT")
    return engine.execution_options(sqlite_begin=None)


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, hide_parameters=True)
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
    begin = connection.get_execution_options().get("sqlite_begin", "BEGIN")
    if begin is not None:
        connection.exec_driver_sql(begin)


def _postgres(url: URL, pool: PoolSettings) -> Engine:
    url = url.update_query_dict(CONNECTING | dict(url.query))
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_size=pool.pool_size,
        max_overflow=pool.max_overflow,
        pool_timeout=pool.pool_timeout_seconds,
        pool_recycle=pool.recycle_seconds,
        connect_args={"options": _options(url, pool)},
    )
    _replace_dropped(engine)
    return engine


def _replace_dropped(engine: Engine) -> None:
    """Let the pool give no connection that the server has ended.

    To ask the server before every use, as `pool_pre_ping` does, is an exchange more each time. But a
    server that ends a connection says so, and then there is something to read on one that rests.
    """

    def rest(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["rests_since"] = time.monotonic()

    def wake(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        since = record.info.get("rests_since")
        if since is None or connection is None:  # it is new
            return
        if time.monotonic() - since < ASKED_AFTER_SECONDS and not _has_something_to_say(connection):
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error

    event.listen(engine, "checkin", rest)
    event.listen(engine, "checkout", wake)


def _has_something_to_say(connection: Any) -> bool:
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _options(url: URL, pool: PoolSettings) -> str:
    """Settings of the session; what the URL asks for comes last and so prevails."""
    limits = {
        "statement_timeout": pool.statement_seconds,
        "idle_in_transaction_session_timeout": pool.idle_transaction_seconds,
    }
    ours = [f"-c {name}={round(seconds * 1000)}" for name, seconds in limits.items()]
    theirs = url.query.get("options", ())
    return " ".join([*ours, theirs] if isinstance(theirs, str) else [*ours, *theirs])
