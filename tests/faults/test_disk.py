"""No room left: in the work folder, in the store, or on the one disk that everything is on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.job import JobStatus
from models.store import open_store
from tests.faults.effects import assert_delivered_once, assert_ended_once
from tests.faults.marks import on_sqlite
from tests.faults.service import Service
from tests.worker.jobs import load

pytestmark = pytest.mark.slow

TOO_SMALL, ROOMY = "200k", "50m"  # a job's files have 300 kB


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_room(folder: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={ROOMY}", str(folder)], check=True)


@pytest.mark.parametrize("place", ["data", "objects"])
@on_sqlite
def test_a_full_disk_is_told_and_the_next_job_succeeds(service: Service, tmp_path: Path, place: str) -> None:
    with small_disk(tmp_path / place, TOO_SMALL):
        full = service.create()
        service.worker()
        service.keepers()
        service.wait_until_done(full)
        assert_ended_once(service.database, full, JobStatus.FAILED)
        error = load(service.database, full).error
        assert error is not None
        assert (error["code"], error["retryable"]) == ("disk_full", True)

        make_room(tmp_path / place)
        later = service.create()
        service.wait_until_done(later)
        assert_delivered_once(service.database, open_store(service.settings.store), later)
        for name in list(service.processes):
            service.kill(name)
