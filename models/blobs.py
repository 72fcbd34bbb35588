"""Who may use stored bytes, and when they may go: a protocol without timing assumptions.

Bytes lie in the store under their digest and are shared by artifacts and uploads. A writer that
finds them there stores nothing; a collector deletes what nothing refers to. Between the writer's
look and its commit the collector must not delete, or the committed row would point at nothing. A
store offers no lock and no conditional delete, and a process may sleep for hours between any two
steps, so neither a grace period nor a last look before the delete is enough. Instead **a key that
was ever given up is never used again**:

1. A writer *reserves* the digest (`reserve`): it learns the generation and so the key, and the
   collector is told to look only after a grace period.
2. It stores the bytes at that key unless they are there.
3. In the transaction that adds the referring row it *attaches* the blob (`attach`), which succeeds
   only if the generation is still the one reserved. Otherwise `BlobLost`: begin again at 1.
4. Who removes a referring row *detaches* the blob in the same transaction: the collector may look.
5. The collector *gives up* a blob that is due and unreferred (`give_up`): one guarded statement
   raises the generation, and the old key goes to the table `garbage`. Only keys from there are
   deleted, and their row goes when the store has confirmed.

`attach`, `detach` and `give_up` change the same row, so the database puts them in order: either the
blob is attached first (its `check_at` is null, `give_up` passes over it), or it is given up first
(the generation differs, `attach` refuses). A delete that arrives late, from a collector that was
stopped or a store that was slow, hits a key that no row names any more. Reading the generation of a
referring row is always right, for a blob is never given up while it is referred to.

The grace period is for economy only: it keeps writers from having to begin again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.orm import Session

from models.artifact import Artifact
from models.blob import BlobRow, Garbage
from models.checkpoint import checkpoint_folder
from models.database import Database, after, now
from models.statements import insert_into
from models.store import Blob, blob_key
from models.upload import Upload


class BlobLost(Exception):
    """The bytes were given up since they were reserved: store them again."""


def reserver(database: Database, grace_hours: float) -> Callable[[Blob], Blob]:
    """What `Store.put_file` asks before it stores: the blob with the generation to store it as."""

    def ask(blob: Blob) -> Blob:
        with database.transaction() as session:
            return reserve(session, blob, grace_hours)

    return ask


def reserve(session: Session, blob: Blob, grace_hours: float) -> Blob:
    """Announce that the bytes are about to be stored and referred to."""
    look = after(session, grace_hours * 3600)
    statement = insert_into(session, BlobRow).values(
        sha256=blob.sha256, generation=blob.generation, check_at=look
    )
    on_file = statement.on_conflict_do_update(index_elements=[BlobRow.sha256], set_={"check_at": look})
    generation = session.execute(on_file.returning(BlobRow.generation)).scalar_one()
    return replace(blob, generation=generation)


def attach(session: Session, blob: Blob) -> None:
    """A row that refers to the bytes is being added in this transaction. Raises BlobLost."""
    statement = insert_into(session, BlobRow).values(
        sha256=blob.sha256, generation=blob.generation, check_at=None
    )
    still_ours = statement.on_conflict_do_update(
        index_elements=[BlobRow.sha256],
        set_={"check_at": None},
        where=BlobRow.generation == blob.generation,
    )
    if session.execute(still_ours.returning(BlobRow.sha256)).scalar_one_or_none() is None:
        raise BlobLost(blob.sha256)


def detach(session: Session, digests: Collection[str]) -> None:
    """Rows that referred to these bytes are being removed in this transaction."""
    statement = (
        update(BlobRow)
        .where(BlobRow.sha256.in_(_in_order(session, digests)))
        .values(check_at=func.coalesce(BlobRow.check_at, now(session)))
        .execution_options(synchronize_session=False)
    )
    session.execute(statement)


def give_up(session: Session, limit: int) -> list[str]:
    """Give up blobs that are due and that nothing refers to. Returns their keys, now garbage."""
    due = select(BlobRow).where(BlobRow.check_at <= now(session)).order_by(BlobRow.check_at).limit(limit)
    keys: list[str] = []
    for row in session.scalars(due.with_for_update(skip_locked=True)).all():
        # A statement of its own, begun after the row is locked: it sees every reference that was
        # committed before, and there can be no new one until this transaction ends.
        if session.execute(select(_is_referred_to(row.sha256))).scalar_one():
            row.check_at = None
            continue
        keys.append(blob_key(row.sha256, row.generation))
        row.generation += 1
        row.check_at = None
    session.flush()
    discard(session, keys)
    return keys


def give_up_unknown(session: Session, keys: Iterable[str]) -> list[str]:
    """Of objects found in the store, those that no row can ever name: strays of broken-off writes.

    Those of a newer generation than the database knows are left: it may have been restored.
    """
    found = {key: parsed for key in keys if (parsed := _parse(key)) is not None}
    known = {
        row.sha256: row.generation
        for row in session.execute(
            select(BlobRow.sha256, BlobRow.generation).where(
                BlobRow.sha256.in_({digest for digest, _ in found.values()})
            )
        )
    }
    strays = []
    for key, (digest, generation) in found.items():
        if digest not in known:
            # From now on the digest has a row, so that whoever stores it meanwhile gets a new key.
            added = (
                insert_into(session, BlobRow)
                .values(sha256=digest, generation=generation + 1, check_at=now(session))
                .on_conflict_do_nothing()
                .returning(BlobRow.sha256)
            )
            if session.execute(added).scalar_one_or_none() is not None:
                strays.append(key)
        elif generation < known[digest]:
            strays.append(key)
    discard(session, strays)
    return strays


def discard(session: Session, keys: Collection[str]) -> None:
    """Have the collector delete these keys, or folders that end in `/`."""
    for key in keys:
        session.execute(
            insert_into(session, Garbage).values(key=key, due_at=now(session)).on_conflict_do_nothing()
        )


def discard_checkpoints(session: Session, job_ids: Collection[str]) -> list[str]:
    """Have the collector delete the checkpoint files of jobs that are done. Returns their folders."""
    folders = [checkpoint_folder(job_id) + "/" for job_id in job_ids]
    discard(session, folders)
    return folders


def _is_referred_to(sha256: str) -> ColumnElement[bool]:
    return or_(
        exists().where(Artifact.sha256 == sha256),
        exists().where(Upload.sha256 == sha256),
    )


def _in_order(session: Session, digests: Collection[str]) -> list[str]:
    """Locks the rows in one order, so that two transactions never wait for each other."""
    wanted = select(BlobRow.sha256).where(BlobRow.sha256.in_(set(digests))).order_by(BlobRow.sha256)
    return list(session.scalars(wanted.with_for_update()))


def _parse(key: str) -> tuple[str, int] | None:
    digest, _, generation = key.rpartition("/")[2].partition(".")
    if len(digest) != 64 or not (generation or "0").isdigit():
        return None
    return digest, int(generation or 0)
