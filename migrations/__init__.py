"""The schema's history. `upgrade(url)` brings a database to the newest version."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

FOLDER = Path(__file__).parent


def config(url: str) -> Config:
    """Alembic's configuration for a database, without an ini file."""
    settings = Config()
    settings.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    settings.attributes["url"] = url
    return settings


def upgrade(url: str) -> None:
    """Bring the database to the newest version. Running it again changes nothing."""
    command.upgrade(config(url), "head")
