"""Clears away what nobody needs any more: what has expired, and the bytes that nothing refers to.

The reaper does a `round` at every look, in bounded batches; several at once do no harm (see
`models.retention` and `models.blobs`). `axforge gc` goes on until nothing is left, and also looks through
the store for strays. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import structlog
import typer
from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.orm import Session

from models import blobs, retention, usage
from models.blob import Garbage
from models.checkpoint import Checkpoint
from models.database import Database, after, now
from models.job import TERMINAL, Job
from models.retention import Keeping
from models.settings import Settings
from models.store import Store, StoreError, open_store
from worker.workfolder import sweep

BATCH = 100
RETRY_SECONDS = 300.0
log = structlog.get_logger(__name__)

Counts = Counter[str]


def round(database: Database, store: Store, settings: Settings) -> Counts:
    """One batch of everything. Returns what was removed, by kind."""
    with database.transaction() as session:
        counts = _expire(session, _keeping(settings))
    counts["keys"] = empty_garbage(database, store)
    return +counts


def collect(database: Database, store: Store, settings: Settings) -> Counts:
    """Go on until nothing is left, then look through the store and this machine's folders.

    The tenants' counters of stored bytes are compared with their files and set right.
    """
    counts: Counts = Counter()
    while more := round(database, store, settings):
        counts += more
    for keys in _batches(_objects(store)):
        with database.transaction() as session:
            counts["strays"] += len(_give_up_strays(session, keys))
    while emptied := empty_garbage(database, store):
        counts["keys"] += emptied
    for tenant in _tenants(database):
        with database.transaction() as session:
            counts["stored_bytes_recounted"] += usage.recount(session, tenant) != 0
    counts["partial_writes"] = store.drop_partial_writes()
    counts["work_folders"] = len(sweep(database, settings.data_dir))
    return +counts


def preview(database: Database, store: Store, settings: Settings) -> Counts:
    """What `collect` would remove: the same statements, rolled back; the store is only listed."""
    counts: Counts = Counter()
    with database.rehearsal() as session:
        while more := _expire(session, _keeping(settings)):
            counts += more
        usage.write(session)
        counts["stored_bytes_recounted"] = sum(
            usage.recount(session, tenant) != 0 for tenant in usage.tenants(session)
        )
        known = set(session.scalars(select(Garbage.key)))
    counts["keys"] = len(known)
    for keys in _batches(_objects(store)):
        with database.rehearsal() as session:
            counts["strays"] += len(set(_give_up_strays(session, keys)) - known)
    return +counts


def empty_garbage(database: Database, store: Store, limit: int = BATCH) -> int:
    """Delete what is garbage and forget it once the store has confirmed. Returns how many keys.

    Not locked meanwhile: two collectors may both delete a key, which no row will ever name again.
    """
    with database.session() as session:
        due = select(Garbage.key).where(Garbage.due_at <= now(session)).order_by(Garbage.due_at).limit(limit)
        keys = list(session.scalars(due))
    deleted = [key for key in keys if _delete(store, key)]
    with database.transaction() as session:
        session.execute(delete(Garbage).where(Garbage.key.in_(deleted)))
        failed = set(keys).difference(deleted)
        retry = update(Garbage).where(Garbage.key.in_(failed))
        session.execute(retry.values(due_at=after(session, RETRY_SECONDS)))
    return len(deleted)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
) -> None:
    """Clear away what has expired or what nothing refers to; the settings are those of the server.

    The reaper does the same by and by; this goes on until nothing is left and looks for strays too.
    """
    settings = Settings()
    database = Database(settings.database)
    store = open_store(settings.store, spool=settings.data_dir / "spool")
    try:
        counts = (preview if dry_run else collect)(database, store, settings)
    except StoreError as error:
        typer.echo(f"The store does not answer: {error}. What was found so far is done.", err=True)
        raise typer.Exit(1) from error
    finally:
        database.close()
    verb = "would go" if dry_run else "removed"
    for kind, number in sorted(counts.items()) or [("nothing", 0)]:
        typer.echo(f"{kind}: {number} {verb}" if number else f"nothing {verb}")


def _expire(session: Session, keeping: Keeping) -> Counts:
    return +Counter(
        jobs=len(retention.sweep_jobs(session, keeping)),
        uploads=len(retention.expire_uploads(session, keeping)),
        idempotency_keys=retention.forget_idempotency_keys(session, keeping),
        audit_events=retention.forget_audit_events(session, keeping),
        blobs=len(blobs.give_up(session, BATCH)),
    )


def _keeping(settings: Settings) -> Keeping:
    return Keeping(
        state_days=settings.state_days,
        upload_days=settings.upload_days,
        event_days=settings.event_days,
        idempotency_hours=settings.idempotency_hours,
        audit_days=settings.audit_days,
    )


def _tenants(database: Database) -> list[str]:
    with database.session() as session:
        return usage.tenants(session)


def _delete(store: Store, key: str) -> bool:
    try:
        for one in list(store.list(key.rstrip("/"))) if key.endswith("/") else [key]:
            store.delete(one)
    except StoreError as error:
        log.warning("not_deleted", key=key, reason=str(error))
        return False
    return True


def _objects(store: Store) -> Iterator[str]:
    yield from store.list("sha256")
    yield from store.list("checkpoint")


def _batches(keys: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(keys, BATCH)):
        yield batch


def _give_up_strays(session: Session, keys: list[str]) -> list[str]:
    """Objects that no row names: of given up blobs, and checkpoints of jobs that are done or deleted."""
    shared = [key for key in keys if key.startswith("sha256/")]
    job_ids = {key.split("/")[1] for key in keys if key.startswith("checkpoint/")}
    kept = or_(Job.status.not_in(TERMINAL), exists().where(Checkpoint.job_id == Job.id))
    alive = set(session.scalars(select(Job.id).where(Job.id.in_(job_ids), kept)))
    return [
        *blobs.give_up_unknown(session, shared),
        *blobs.discard_checkpoints(session, sorted(job_ids - alive)),
    ]


if __name__ == "__main__":
    typer.run(gc)
