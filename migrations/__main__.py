"""`python -m migrations`: bring the database of the settings to the newest version."""

from __future__ import annotations

import sys

from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import OperationalError

from migrations import head, upgrade
from models.settings import Settings


def main() -> None:
    """Exit status 1 when the database does not answer or a table stays in use; nothing is changed then."""
    try:
        upgrade(Settings().database)
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable):
            sys.exit("A table is in use by a long transaction. Nothing was changed; run this again.")
        sys.exit(f"The database of AXFORGE_DATABASE_URL does not serve: {error.orig}")
    print(f"The database is at version {head()}.")


if __name__ == "__main__":
    main()
