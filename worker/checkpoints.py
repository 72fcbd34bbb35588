"""Finished stages and the search's state, kept in the store so that another machine can go on.

Every save is one transaction after all uploads, so the rows always name a consistent set of files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from models import journal
from models.checkpoint import Checkpoint, checkpoint_folder
from models.database import Database
from models.store import Blob, BlobDamaged, BlobNotFound, Store

log = structlog.get_logger(__name__)
DONE = "done.json"
UNKNOWN = (0, 0)
FOLDER_PREFIX = "run-"
RESTORE_SECONDS = 30.0  # for which a database is waited for
RESUMABLE = frozenset({"search", "recover"})  # go on from their last candidate, finished or not
LOCAL_ONLY = frozenset({"run.json"})  # binds the folder to paths of this machine; made anew elsewhere


class Checkpoints:
    """Of one run. The engine works in `folder`, which is this attempt's own below `home`.

    An earlier attempt on this machine may still be at work, thought dead: what it left is moved to
    the new name, so that whatever it writes from then on goes nowhere.
    """

    def __init__(self, database: Database, store: Store, job_id: str, attempt: int, home: Path) -> None:
        self.folder = home / f"{FOLDER_PREFIX}{attempt}"
        self._database = database
        self._store = store
        self._job_id = job_id
        self._attempt = attempt
        self._home = home
        self._saved: dict[str, tuple[int, int]] = {}

    def restore(self) -> int:
        """Fetch what was saved, unless an attempt here has the newest work. Returns the files fetched.

        Another machine may have gone further than the last attempt here.
        """
        rows = self._database.patiently(
            lambda session: journal.checkpoints(session, self._job_id), RESTORE_SECONDS
        )
        here = self._earlier_attempts()
        newer = bool(rows) and max(row.attempt for row in rows) > max(here, default=0)
        fetched = newer and self._fetch(rows)
        if fetched:
            self._saved = {name: _signature(path) for name, path in self._worth_saving()}
        else:
            self._saved = {row.name: UNKNOWN for row in rows}
            if here:
                here.pop(max(here)).rename(self.folder)
        for outdated in here.values():
            shutil.rmtree(outdated, ignore_errors=True)
        return len(rows) if fetched else 0

    def save(self) -> int:
        """Store what is new or changed since the last save. Returns the files.

        Raises:
            LeaseLost: another run holds the job.
        """
        blobs: dict[str, Blob] = {}
        present: dict[str, tuple[int, int]] = {}
        for name, path in self._worth_saving():
            present[name] = _signature(path)
            if self._saved.get(name) != present[name]:
                blobs[name] = self._store.put_file(path, folder=checkpoint_folder(self._job_id))
        gone = self._saved.keys() - present.keys()
        if blobs or gone:
            with self._database.transaction() as session:
                for name, blob in blobs.items():
                    journal.save_checkpoint(
                        session, self._job_id, self._attempt, name, sha256=blob.sha256, size=blob.size
                    )
                for name in gone:
                    journal.forget_checkpoint(session, self._job_id, self._attempt, name)
        self._saved = present
        return len(blobs)

    def _earlier_attempts(self) -> dict[int, Path]:
        """The folders of earlier attempts on this machine, by their number."""
        found = {
            int(path.name.removeprefix(FOLDER_PREFIX)): path for path in self._home.glob(f"{FOLDER_PREFIX}*")
        }
        return {number: path for number, path in found.items() if number < self._attempt}

    def _fetch(self, rows: list[Checkpoint]) -> bool:
        """False where an object is gone or damaged: work is done again rather than the job given up."""
        partial = self._home / f".restoring-{self._attempt}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            for row in rows:
                key = Blob(row.sha256, row.size, checkpoint_folder(self._job_id)).key
                self._store.download(key, partial / row.name)
        except (BlobDamaged, BlobNotFound) as error:
            log.error("checkpoint_unusable", reason=str(error))
            return False
        partial.rename(self.folder)
        return True

    def _worth_saving(self) -> Iterator[tuple[str, Path]]:
        for entry in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if entry.is_file() and entry.name not in LOCAL_ONLY and not entry.name.startswith("."):
                yield entry.name, entry
            elif entry.is_dir() and (entry.name in RESUMABLE or (entry / DONE).exists()):
                for path in sorted(entry.rglob("*")):
                    if path.is_file() and not path.name.startswith("."):
                        yield path.relative_to(self.folder).as_posix(), path


def fetch(database: Database, store: Store, job_id: str, folder: Path, wanted: Callable[[str], bool]) -> int:
    """Fetch the saved files whose names are wanted into a folder, to be read. Returns how many.

    Raises:
        BlobNotFound, BlobDamaged: a file is not what was saved.
    """
    with database.session() as session:
        rows = [row for row in journal.checkpoints(session, job_id) if wanted(row.name)]
    for row in rows:
        store.download(Blob(row.sha256, row.size, checkpoint_folder(job_id)).key, folder / row.name)
    return len(rows)


def _signature(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
