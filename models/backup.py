"""`python -m models.backup save|restore|check FOLDER`: database and objects into a folder, and back.

The database is saved first: objects are never changed, so each one that it names is still there
when the objects are copied, unless the reaper removed it meanwhile; stop that one before. Postgres
needs its own tools (pg_dump, pg_restore) of the server's version or newer on the PATH.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import inspect, select
from sqlalchemy.engine import URL, make_url

from models.database import Database
from models.settings import Settings
from models.store import BlobNotFound, Store, blob_key, open_store
from models.tables import Artifact, Upload

DUMP, OBJECTS = "database", "objects"


class NotRestorable(Exception):
    """Restoring would overwrite something, or the backup is not whole."""


def save(settings: Settings, folder: Path) -> int:
    """Save everything to an empty or older backup's folder. Returns how many objects were copied."""
    folder.mkdir(parents=True, exist_ok=True)
    dump = folder / DUMP
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        dump.unlink(missing_ok=True)
        with closing(sqlite3.connect(url.database)) as source, closing(sqlite3.connect(dump)) as target:
            source.backup(target)
    else:
        _postgres("pg_dump", url, "--format=custom", "--no-owner", f"--file={dump}")
    store = open_store(settings.store)
    copied = 0
    for key in store.list(""):
        if not (folder / OBJECTS / key).exists():
            store.download(key, folder / OBJECTS / key)
            copied += 1
    return copied


def restore(settings: Settings, folder: Path) -> int:
    """Bring a backup into an empty database, and its objects into the store. Returns their number.

    Raises:
        NotRestorable: the database has tables, or an object is not what was saved.
    """
    _refuse_used(settings)
    dump = folder / DUMP
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        shutil.copyfile(dump, url.database)
    else:
        _postgres("pg_restore", url, "--no-owner", "--exit-on-error", "--single-transaction", str(dump))
    store = open_store(settings.store)
    files = [path for path in sorted((folder / OBJECTS).rglob("*")) if path.is_file()]
    for path in files:
        key = path.relative_to(folder / OBJECTS).as_posix()
        if store.put_file(path, folder=key.rpartition("/")[0]).key != key:
            raise NotRestorable(f"{key} in the backup is not what was saved")
    return len(files)


def check(settings: Settings) -> list[str]:
    """Names of the artifacts and uploads whose bytes the store does not hold."""
    store = open_store(settings.store)
    database = Database(settings.database)
    try:
        return [name for name, sha256, size in _files(database) if not _holds(store, sha256, size)]
    finally:
        database.close()


def _files(database: Database) -> Iterator[tuple[str, str, int]]:
    with database.session() as session:
        for artifact in session.execute(select(Artifact.id, Artifact.sha256, Artifact.size)):
            yield artifact.id, artifact.sha256, artifact.size
        for upload in session.execute(select(Upload.id, Upload.sha256, Upload.size)):
            yield upload.id, upload.sha256, upload.size


def _holds(store: Store, sha256: str, size: int) -> bool:
    try:
        return store.size(blob_key(sha256)) == size
    except BlobNotFound:
        return False


def _refuse_used(settings: Settings) -> None:
    database = Database(settings.database)
    try:
        if inspect(database.engine).get_table_names():
            raise NotRestorable("the database has tables; restore into an empty one")
    finally:
        database.close()


def _postgres(tool: str, url: URL, *options: str) -> None:
    """Run one of Postgres' tools; the password goes by the environment, where no `ps` shows it."""
    password = {} if url.password is None else {"PGPASSWORD": str(url.password)}
    address = url.set(drivername="postgresql", password=None).render_as_string()
    subprocess.run([tool, f"--dbname={address}", *options], env=os.environ | password, check=True)


def main(arguments: list[str] | None = None) -> int:
    """What the command line asks for; 1 where something is missing or refused."""
    parser = argparse.ArgumentParser(prog="python -m models.backup", description=__doc__)
    parser.add_argument("what", choices=["save", "restore", "check"])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("backup"))
    given = parser.parse_args(arguments)
    settings = Settings()
    try:
        if given.what == "save":
            print(f"saved; {save(settings, given.folder)} objects were new")
        elif given.what == "restore":
            print(f"restored {restore(settings, given.folder)} objects")
    except NotRestorable as error:
        print(error, file=sys.stderr)
        return 1
    missing = check(settings)
    print(f"{len(missing)} artifacts and uploads lack their bytes", *missing[:20], file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
