"""Bytes that several rows share: never lost while a row refers to them, gone when none does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from models import blobs, retention
from models.blob import BlobRow, Garbage
from models.blobs import BlobLost
from models.database import Database
from models.store import Blob, open_store
from models.upload import Upload, UploadKind

DIGEST = "a" * 64
BLOB = Blob(DIGEST, 3)
COLLECTIONS = 60  # of each of two collectors


def add_upload(database: Database, blob: Blob) -> str:
    """What a writer does last: the row and the claim to the bytes, in one transaction."""
    with database.transaction() as session:
        blobs.attach(session, blob)
        upload = Upload(
            kind=UploadKind.DATASET,
            filename="d.csv",
            size=blob.size,
            sha256=blob.sha256,
            generation=blob.generation,
            media_type="text/csv",
        )
        session.add(upload)
        session.flush()
        return upload.id


def remove(database: Database, upload_id: str) -> None:
    with database.transaction() as session:
        retention.remove_uploads(session, [upload_id])


def reserve(database: Database) -> Blob:
    with database.transaction() as session:
        return blobs.reserve(session, BLOB, 0.0)  # no grace: the collector is as eager as can be


def give_up(database: Database) -> list[str]:
    with database.transaction() as session:
        return blobs.give_up(session, 100)


def forget_everything(database: Database) -> None:
    with database.transaction() as session:
        for table in (Upload, BlobRow, Garbage):
            session.execute(delete(table))


def writer(database: Database, store: set[str]) -> Iterator[None]:
    """Each step is one request to the database or to the store, as in `ObjectStore.put_file`."""
    while True:
        blob = reserve(database)
        yield
        there = blob.key in store
        yield
        if not there:
            store.add(blob.key)
        yield
        try:
            add_upload(database, blob)
            return
        except BlobLost:
            continue


def collector(database: Database, store: set[str]) -> Iterator[None]:
    """The second delete is that of a collector that was stopped before it, and goes on now."""
    keys = give_up(database)
    yield
    store.difference_update(keys)
    yield
    store.difference_update(keys)


def remover(database: Database, upload_id: str) -> Iterator[None]:
    remove(database, upload_id)
    yield


def schedules() -> Iterator[str]:
    """All orders of a writer's four steps, a collector's three and the removal of the other row."""
    for collecting in combinations(range(8), 3):
        left = [place for place in range(8) if place not in collecting]
        for removing in left:
            yield "".join(
                "c" if place in collecting else "r" if place == removing else "w" for place in range(8)
            )


def test_in_no_order_of_steps_does_a_row_lose_its_bytes(database: Database) -> None:
    tried = 0
    for schedule in schedules():
        forget_everything(database)
        store = {BLOB.key}
        parts: dict[str, Iterator[None]] = {
            "w": writer(database, store),
            "c": collector(database, store),
            "r": remover(database, add_upload(database, BLOB)),
        }
        for name in schedule:
            next(parts[name], None)
        for part in (parts["w"], parts["r"], parts["c"]):  # who had to begin again comes to his end
            for _ in part:
                pass
        with database.session() as session:
            [row] = session.scalars(select(Upload)).all()
        assert Blob(row.sha256, row.size, generation=row.generation).key in store, schedule
        tried += 1
    assert tried == 280


def test_unreferred_bytes_go_and_come_back_under_another_key(database: Database) -> None:
    first = reserve(database)
    one, two = add_upload(database, first), add_upload(database, first)
    remove(database, one)
    assert give_up(database) == []
    remove(database, two)
    assert give_up(database) == [f"sha256/{DIGEST}"]
    assert give_up(database) == []
    again = reserve(database)
    assert again.key == f"sha256/{DIGEST}.1"
    with pytest.raises(BlobLost):
        add_upload(database, first)
    add_upload(database, again)
    assert give_up(database) == []


def test_an_abandoned_write_goes_after_its_grace(database: Database) -> None:
    with database.transaction() as session:
        blobs.reserve(session, BLOB, 1.0)
    assert give_up(database) == []
    reserve(database)
    assert give_up(database) == [BLOB.key]


def test_attach_waits_for_the_collector_and_then_refuses(database: Database) -> None:
    blob = reserve(database)
    started = threading.Event()

    def attach() -> None:
        started.set()
        add_upload(database, blob)

    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            assert blobs.give_up(session, 100) == [blob.key]
            attaching = pool.submit(attach)
            assert started.wait(30)
        with pytest.raises(BlobLost):
            attaching.result(timeout=60)


def test_strays_are_found_but_nothing_that_may_be_meant(database: Database) -> None:
    add_upload(database, BLOB)
    unknown, newer = f"sha256/{'b' * 64}", f"sha256/{DIGEST}.3"
    with database.transaction() as session:
        assert blobs.give_up_unknown(session, [BLOB.key, unknown, newer, "sha256/README"]) == [unknown]
        # Whoever stores these bytes while the stray is deleted gets another key.
        assert blobs.reserve(session, Blob("b" * 64, 1), 1.0).key == f"{unknown}.1"
        assert session.scalars(select(Garbage.key)).all() == [unknown]


def test_many_writers_and_collectors_at_once(database: Database, tmp_path: Path) -> None:
    store = open_store((tmp_path / "objects").as_uri(), spool=tmp_path / "spool")
    writing = threading.Event()
    writing.set()

    def write(number: int) -> int:
        lost = 0
        for _ in range(15):
            while True:
                blob = store.put_stream([b"abc"], reserve=blobs.reserver(database, 0.0))
                try:
                    upload_id = add_upload(database, blob)
                    break
                except BlobLost:
                    lost += 1
            assert b"".join(store.open_range(blob.key)) == b"abc"
            remove(database, upload_id)
        return lost

    def collect() -> None:
        # Without a grace period a collector may spoil a writer's every try: it collects only so often.
        for _ in range(COLLECTIONS):
            if not writing.is_set():
                return
            for key in give_up(database):
                store.delete(key)

    with ThreadPoolExecutor(6) as pool:
        collecting = [pool.submit(collect) for _ in range(2)]
        written = [pool.submit(write, number) for number in range(4)]
        try:
            results = [each.result(timeout=120) for each in written]
        finally:
            writing.clear()
        for each in collecting:
            each.result(timeout=60)
    assert len(results) == 4
