"""`python -m migrations.check`: the migrations lead to exactly the tables of `models`, and back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from alembic import command

from migrations import config, versions


def check(url: str) -> None:
    """Go up step by step, each step also down and up again, compare with the tables, go down.

    Raises what Alembic raises on a difference.
    """
    settings = config(url)
    for version in versions():
        command.upgrade(settings, version)
        command.downgrade(settings, "-1")
        command.upgrade(settings, version)
    command.check(settings)
    for _ in versions():
        command.downgrade(settings, "-1")


def main() -> None:
    """Check on a fresh SQLite file."""
    with tempfile.TemporaryDirectory() as folder:
        check(f"sqlite:///{Path(folder) / 'check.db'}")


if __name__ == "__main__":
    main()
