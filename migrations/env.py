"""Alembic's entry: the URL comes from `migrations.config`, or from the settings on the command line."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from models.database import Database
from models.settings import Settings
from models.tables import Base

UPGRADE_LOCK = 7_205_759_403  # any number, the same in every process


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
    if connection.dialect.name == "postgresql":  # two servers starting at once upgrade one by one
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": UPGRADE_LOCK})
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
