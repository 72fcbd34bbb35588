"""The counter of stored bytes is the sum of the files, whatever happens to them and however much at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.uploads import repository as uploads
from models import blobs, lifecycle, retention, usage
from models.base import utc_now
from models.database import Database
from models.job import Job, JobStatus
from models.lifecycle import Delivery, LeaseLost
from models.retention import Keeping
from models.spec import JobSpec
from models.store import Blob
from models.tables import Artifact, StoredUse, Upload, UploadKind

TENANTS = ("a", "b")
KEEPING = Keeping(upload_days=30, event_days=90, idempotency_hours=24, audit_days=400)
SPEC = JobSpec.model_validate({"base_model": {"hub": "a/b"}, "dataset": {"hub": "c/d"}})
Deed = Callable[[Session, str, int], None]


def upload(session: Session, tenant: str, size: int) -> None:
    digest = f"{size % 7:064x}"  # some share their bytes
    blobs.attach(session, Blob(digest, size))
    row = Upload(
        tenant=tenant,
        kind=UploadKind.DATASET,
        filename="d.csv",
        size=size,
        sha256=digest,
        media_type="text/csv",
        expires_at=utc_now() + timedelta(days=size % 3 - 1),
    )
    uploads.add(session, row)


def remove_upload(session: Session, tenant: str, size: int) -> None:
    some = select(Upload.id).where(Upload.tenant == tenant).order_by(Upload.id).offset(size % 3).limit(1)
    retention.remove_uploads(session, session.scalars(some.with_for_update(skip_locked=True)).all())


def expire_uploads(session: Session, _tenant: str, size: int) -> None:
    retention.expire_uploads(session, KEEPING, limit=size % 3 + 1)


def deliver(session: Session, tenant: str, size: int) -> None:
    job = lifecycle.create(session, SPEC, tenant=tenant)
    claimed = lifecycle.claim_one(session, job.id, "w", 60)
    assert claimed is not None
    names = {f"{number}.onnx": size + number for number in range(size % 4)}
    files = [Delivery(name, each, f"{each % 7:064x}", "text/plain") for name, each in names.items()]
    keep_days = float(size % 2) - 0.5  # half of them expire at once
    lifecycle.succeed(session, job.id, 1, result={}, artifacts=files, progress={}, keep_days=keep_days)


def deliver_too_late(session: Session, tenant: str, size: int) -> None:
    job = lifecycle.create(session, SPEC, tenant=tenant)
    lifecycle.claim_one(session, job.id, "w", 60)
    late = Delivery("late.onnx", size, f"{size % 7:064x}", "text/plain")
    with pytest.raises(LeaseLost):
        lifecycle.succeed(session, job.id, 7, result={}, artifacts=[late], progress={})


def sweep(session: Session, _tenant: str, size: int) -> None:
    retention.sweep_jobs(session, KEEPING, limit=size % 3 + 1)


def remove_job(session: Session, tenant: str, _size: int) -> None:
    ended = select(Job).where(Job.tenant == tenant, Job.status == JobStatus.SUCCEEDED).limit(1)
    for job in session.scalars(ended.with_for_update(skip_locked=True)).all():
        retention.remove_job(session, job, 30)


def break_off(session: Session, tenant: str, size: int) -> None:
    upload(session, tenant, size)
    raise ZeroDivisionError


def recount(session: Session, tenant: str, _size: int) -> None:
    assert usage.recount(session, tenant) == 0


DEEDS: tuple[Deed, ...] = (
    *(upload, upload, deliver, deliver),
    *(remove_upload, expire_uploads, deliver_too_late, sweep, remove_job, break_off, recount),
)


def do(database: Database, deed: Deed, tenant: str, size: int) -> None:
    try:
        with database.transaction() as session:
            deed(session, tenant, size)
    except ZeroDivisionError:
        assert deed is break_off


def summed(session: Session, tenant: str) -> int:
    """As it was before there was a counter."""
    of_uploads = select(func.sum(Upload.size)).where(Upload.tenant == tenant)
    of_jobs = select(func.sum(Artifact.size)).join(Job, Job.id == Artifact.job_id).where(Job.tenant == tenant)
    return sum(int(session.execute(query).scalar_one() or 0) for query in (of_uploads, of_jobs))


def assert_counted(database: Database) -> None:
    with database.session() as session:
        for tenant in TENANTS:
            assert usage.stored_bytes(session, tenant) == summed(session, tenant)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(DEEDS), st.sampled_from(TENANTS), st.integers(1, 2**40)), max_size=30)
)
def test_any_order_of_deeds(database: Database, deeds: list[tuple[Deed, str, int]]) -> None:
    for deed, tenant, size in deeds:
        do(database, deed, tenant, size)
    assert_counted(database)


def test_many_at_once(database: Database) -> None:
    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(25):
            do(database, chance.choice(DEEDS), chance.choice(TENANTS), chance.randrange(1, 2**40))

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, seed) for seed in range(6)]:
            done.result()
    assert_counted(database)
    with database.session() as session:
        assert sum(usage.stored_bytes(session, tenant) for tenant in TENANTS) > 0


def test_a_transaction_sees_what_it_counted_itself(database: Database) -> None:
    with database.transaction() as session:
        upload(session, "a", 5)
        assert usage.stored_bytes(session, "a") == 5
    with database.session() as session:
        assert usage.stored_bytes(session, "a") == 5
        assert usage.stored_bytes(session, "nobody") == 0


def test_a_wrong_counter_is_set_right(database: Database) -> None:
    do(database, upload, "a", 5)
    do(database, deliver, "b", 7)
    with database.transaction() as session:
        session.execute(update(StoredUse).where(StoredUse.tenant == "a").values(bytes=-100))
    with database.session() as session:
        assert usage.stored_bytes(session, "a") == 0  # never below
        assert usage.tenants(session) == ["a", "b"]
    with database.transaction() as session:
        assert [usage.recount(session, tenant) for tenant in ("a", "b", "new")] == [105, 0, 0]
    assert_counted(database)
