"""Bytes that each tenant stores: a counter, kept in the transactions that add and remove the files.

Summing up the rows at every upload would cost more with every file. What is counted here is committed
or rolled back with the rows themselves. `recount` makes good what went wrong nevertheless, as when
processes of a version without the counter were at work during an upgrade.
"""

from __future__ import annotations

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from models.artifact import Artifact
from models.job import Job
from models.quota import StoredUse
from models.statements import insert_into
from models.upload import Upload

_PENDING = "stored_use"


def add(session: Session, tenant: str, size: int) -> None:
    """Count bytes of a row that this transaction adds; of one that it removes, as a negative number."""
    pending: dict[str, int] = session.info.setdefault(_PENDING, {})
    pending[tenant] = pending.get(tenant, 0) + size


def write(session: Session) -> None:
    """Write what was counted. `Database.transaction` calls it at its end.

    In one order for all transactions and right before they commit: a tenant's row must neither be
    waited for in a circle nor for long.
    """
    pending: dict[str, int] = session.info.pop(_PENDING, {})
    for tenant, size in sorted(pending.items()):
        added = insert_into(session, StoredUse).values(tenant=tenant, bytes=size)
        session.execute(
            added.on_conflict_do_update(
                index_elements=[StoredUse.tenant],
                set_={"bytes": StoredUse.bytes + added.excluded.bytes},
            )
        )


def stored_bytes(session: Session, tenant: str) -> int:
    """Bytes of the tenant's uploads and of its jobs' artifacts."""
    counted = session.scalars(select(StoredUse.bytes).where(StoredUse.tenant == tenant)).one_or_none()
    pending: dict[str, int] = session.info.get(_PENDING, {})
    return max(0, (counted or 0) + pending.get(tenant, 0))


def tenants(session: Session) -> list[str]:
    """Those that store something, or did; reads every upload and artifact."""
    of_files = select(Job.tenant).join(Artifact, Artifact.job_id == Job.id)
    every = select(Upload.tenant).union(of_files, select(StoredUse.tenant))
    return sorted(session.scalars(every))


def recount(session: Session, tenant: str) -> int:
    """Set the tenant's counter to what its rows say. Returns by how many bytes it was wrong.

    A transaction that changes the tenant's files holds the counter's row from its last statement until
    it is committed. So who has locked the row sees the files of all that have counted, and none of those
    that have not: the sum is begun after the lock, and is exact whatever else goes on.
    """
    session.execute(insert_into(session, StoredUse).values(tenant=tenant, bytes=0).on_conflict_do_nothing())
    locked = select(StoredUse.bytes).where(StoredUse.tenant == tenant).with_for_update()
    counted = session.scalars(locked).one()
    held = _sum(session, tenant)
    if held != counted:
        corrected = update(StoredUse).where(StoredUse.tenant == tenant).values(bytes=held)
        session.execute(corrected.execution_options(synchronize_session=False))
    return held - counted


def _sum(session: Session, tenant: str) -> int:
    uploads = select(func.coalesce(func.sum(Upload.size), 0)).where(Upload.tenant == tenant)
    artifacts = (
        select(func.coalesce(func.sum(Artifact.size), 0))
        .join(Job, Job.id == Artifact.job_id)
        .where(Job.tenant == tenant)
    )
    return int(session.execute(select(uploads.scalar_subquery() + artifacts.scalar_subquery())).scalar_one())
