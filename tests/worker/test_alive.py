"""The sign of life of the processes without an HTTP face."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.worker.jobs import wait_until
from worker import alive


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(alive.VARIABLE, str(tmp_path / "alive"))
    return tmp_path / "alive"


def check() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "worker.alive"], capture_output=True, text=True, check=False)


def test_whoever_asks_whether_to_stop_is_alive(file: Path) -> None:
    pulse = alive.Pulse()
    assert "not begun" in check().stderr
    assert not pulse.is_set()
    assert check().returncode == 0
    old = time.time() - alive.STALE_SECONDS - 5
    os.utime(file, (old, old))
    assert check().returncode == 1
    assert not pulse.is_set()
    assert check().returncode == 0
    pulse.set()
    assert pulse.is_set()


def test_the_check_needs_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(alive.VARIABLE, raising=False)
    alive.touch()
    done = check()
    assert done.returncode == 1
    assert alive.VARIABLE in done.stderr


def test_the_check_imports_next_to_nothing() -> None:
    code = "import sys, worker.alive; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"celery", "sqlalchemy", "pydantic", "structlog"} & set(loaded.stdout.split())


@pytest.mark.parametrize(
    "command",
    [
        ["worker.dispatcher"],
        ["worker.reaper"],
        [*("celery", "--app", "worker.celery_app", "worker", "--pool", "prefork", "--concurrency", "1")],
    ],
    ids=["dispatcher", "reaper", "worker"],
)
def test_processes_give_signs_of_life(
    file: Path, command: list[str], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATABASE_URL", "STORE_URL"):
        monkeypatch.delenv(f"AXFORGE_{name}", raising=False)
    monkeypatch.setenv("AXFORGE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("AXFORGE_BROKER_URL", redis_url)
    subprocess.run([sys.executable, "-m", "migrations"], check=True)
    process = subprocess.Popen([sys.executable, "-m", *command], start_new_session=True)
    try:
        wait_until(lambda: check().returncode == 0 or process.poll() is not None, seconds=60)
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
