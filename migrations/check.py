"""`python -m migrations.check`: the migrations lead to exactly the tables of `models`, and back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from alembic import command

from migrations import config, upgrade


def check(url: str) -> None:
    """Upgrade, compare with the tables, downgrade. Raises what Alembic raises on a difference."""
    upgrade(url)
    command.check(config(url))
    command.downgrade(config(url), "base")


def main() -> None:
    """Check on a fresh SQLite file."""
    with tempfile.TemporaryDirectory() as folder:
        check(f"sqlite:///{Path(folder) / 'check.db'}")


if __name__ == "__main__":
    main()
