"""Fresh databases for tests: SQLite always, Postgres where one answers."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

import migrations
from models.database import Database
from models.tables import Base

POSTGRES = os.environ.get("AXFORGE_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")
BACKENDS = ("sqlite", "postgresql")


@contextmanager
def fresh_database(backend: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database of that backend; skips where there is no server."""
    if backend == "sqlite":
        yield f"sqlite:///{folder / 'axforge.db'}"
        return
    if not _postgres_answers():
        pytest.skip("no Postgres answers")
    schema = f"t_{secrets.token_hex(6)}"
    _on_postgres(f"CREATE SCHEMA {schema}")
    try:
        yield f"{POSTGRES}?options={quote(f'-csearch_path={schema}')}"
    finally:
        _on_postgres(f"DROP SCHEMA {schema} CASCADE")


def create_tables(database: Database) -> None:
    """The tables of the models, marked as those of the newest migration: faster than migrating."""
    Base.metadata.create_all(database.engine)
    with database.transaction() as session:
        session.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
        session.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": migrations.head()})


@cache
def _postgres_answers() -> bool:
    try:
        _on_postgres("SELECT 1")
    except OperationalError:
        return False
    return True


def _on_postgres(statement: str) -> None:
    engine = create_engine(POSTGRES, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()
