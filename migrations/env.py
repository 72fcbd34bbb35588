"""Alembic's entry: the URL comes from `migrations.config`, or from the settings on the command line."""

from __future__ import annotations

from functools import partial

from alembic import context
from sqlalchemy import Connection, text

from migrations import UPGRADE_LOCK
from models.database import Database
from models.settings import Settings
from models.tables import Base

DESCENDING = {"ix_job_queue"}
# A statement that waits for a table's lock makes everybody queue up behind it: it gives up, and is
# tried again, rather than stop the service.
LOCK_TIMEOUT = "5s"


def run() -> None:
    """Run the asked command on the database."""
    url = context.config.attributes.get("url") or Settings().database
    if context.is_offline_mode():
        context.configure(url=url, target_metadata=Base.metadata, literal_binds=True, render_as_batch=True)
        with context.begin_transaction():
            context.run_migrations()
        return
    database = Database(url)
    try:
        with database.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE").begin() as connection:
            _run_online(connection)
    finally:
        database.close()


def _run_online(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # a large table takes its time
        # Two migrators at once work one by one; the second finds nothing left to do.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": UPGRADE_LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        include_name=partial(_is_comparable, connection.dialect.name),
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


def _is_comparable(dialect: str, name: str | None, kind: str, _parents: object) -> bool:
    # SQLite tells the columns of an index without their direction, so the comparison would always
    # find a difference; Postgres, where the same migrations are checked, tells all.
    return not (dialect == "sqlite" and kind == "index" and name in DESCENDING)


run()
