"""Finished stages and the search's state, kept in the store so that another machine can go on.

Every save is one transaction after all uploads, so the rows always name a consistent set of files.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from models import journal
from models.checkpoint import Checkpoint
from models.database import Database
from models.store import Blob, Store

DONE = "done.json"
UNKNOWN = (0, 0)
RESUMABLE = frozenset({"search", "recover"})  # go on from their last candidate, finished or not
LOCAL_ONLY = frozenset({"run.json"})  # binds the folder to paths of this machine; made anew elsewhere


def checkpoint_folder(job_id: str) -> str:
    """The store's folder for a job's checkpoints: apart from what is delivered, so that it may go."""
    return f"checkpoint/{job_id}"


class Checkpoints:
    """Of one run. `folder` is what the engine was given to work in."""

    def __init__(self, database: Database, store: Store, job_id: str, attempt: int, folder: Path) -> None:
        self._database = database
        self._store = store
        self._job_id = job_id
        self._attempt = attempt
        self._folder = folder
        self._saved: dict[str, tuple[int, int]] = {}

    def restore(self) -> int:
        """Fetch what was saved, unless this machine has the newest work itself. Returns the files.

        The file `attempt` beside the folder tells which attempt worked here last: another machine
        may have gone further since.
        """
        with self._database.session() as session:
            rows = journal.checkpoints(session, self._job_id)
        newest = max((row.attempt for row in rows), default=0)
        if rows and (not self._folder.exists() or newest > self._last_attempt_here()):
            self._fetch(rows)
            self._saved = {name: _signature(path) for name, path in self._worth_saving()}
        else:
            self._saved = {row.name: UNKNOWN for row in rows}
            rows = []
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._marker.write_text(str(self._attempt))
        return len(rows)

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

    @property
    def _marker(self) -> Path:
        return self._folder.with_name("attempt")

    def _last_attempt_here(self) -> int:
        try:
            return int(self._marker.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _fetch(self, rows: list[Checkpoint]) -> None:
        partial = self._folder.with_name(f".{self._folder.name}.restoring")
        shutil.rmtree(partial, ignore_errors=True)
        for row in rows:
            key = Blob(row.sha256, row.size, checkpoint_folder(self._job_id)).key
            self._store.download(key, partial / row.name)
        shutil.rmtree(self._folder, ignore_errors=True)
        partial.rename(self._folder)

    def _worth_saving(self) -> Iterator[tuple[str, Path]]:
        for entry in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            if entry.is_file() and entry.name not in LOCAL_ONLY and not entry.name.startswith("."):
                yield entry.name, entry
            elif entry.is_dir() and (entry.name in RESUMABLE or (entry / DONE).exists()):
                for path in sorted(entry.rglob("*")):
                    if path.is_file() and not path.name.startswith("."):
                        yield path.relative_to(self._folder).as_posix(), path


def _signature(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
