"""The schema's history. `upgrade(url)` brings a database to the newest version."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

FOLDER = Path(__file__).parent
UPGRADE_LOCK = 7_205_759_403  # Postgres' advisory lock of whoever migrates; the same in every process


def config(url: str) -> Config:
    """Alembic's configuration for a database, without an ini file."""
    settings = Config()
    settings.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    settings.attributes["url"] = url
    return settings


def is_behind(revision: str | None) -> bool:
    """Whether a database of that revision lacks something that this code needs.

    A revision that this code does not know is of a newer one: while a service is upgraded, its old
    processes go on working.
    """
    if revision is None:
        return True
    return revision in versions() and revision != head()


def upgrade(url: str) -> None:
    """Bring the database to the newest version. Running it again changes nothing."""
    command.upgrade(config(url), "head")


def head() -> str:
    """The version that this code was written for."""
    version = ScriptDirectory(str(FOLDER)).get_current_head()
    assert version is not None
    return version


def versions() -> list[str]:
    """All versions, the oldest first."""
    return [script.revision for script in ScriptDirectory(str(FOLDER)).walk_revisions()][::-1]


def current(connection: Connection) -> str | None:
    """The version that the database is at; None when nothing was ever migrated."""
    return MigrationContext.configure(connection).get_current_revision()
