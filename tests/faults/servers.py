"""Servers of our own, to be stopped, restarted and flushed: Redis always, Postgres where it is installed."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from tests.conftest import free_port
from tests.worker.jobs import wait_until
from worker.embedded import _redis_binary
from worker.leash import leashed

START_SECONDS = 60.0


class RedisServer:
    """A Redis on loopback that keeps nothing on disk: a restart loses all of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.client = Redis(port=self._port)

    def start(self) -> None:
        binary = shutil.which("redis-server") or str(_redis_binary())
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            leashed([binary, *options, "--dir", str(self._folder)], signal.SIGKILL),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers, START_SECONDS)

    def kill(self) -> None:
        """As a power cut would."""
        _kill(self._process)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.kill()


class PostgresServer:
    """A Postgres on loopback in a folder of its own, run as the user `postgres` if we are root."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="axforge-postgres-"))
        self._port = free_port()
        self._user = "postgres" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        data = self._folder / "data"
        if not data.exists():
            if self._user is not None:
                shutil.chown(self._folder, self._user)
            self._run(
                [_binary("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"]
            )
        self._process = subprocess.Popen(
            [
                *_dying_with_us(),
                *(_binary("postgres"), "-D", str(data), "-p", str(self._port)),
                *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._folder}"),
                *("-c", "fsync=off", "-c", "max_connections=60"),
            ],
            user=self._user,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers, START_SECONDS)

    def empty_database(self) -> str:
        """The URL of a new database."""
        name = f"faults_{secrets.token_hex(6)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{self.url.rpartition('/')[0]}/{name}"

    def crash(self) -> None:
        """Stop at once, without ending transactions (SIGQUIT: "immediate shutdown")."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(timeout=START_SECONDS)

    def cut_connections(self) -> int:
        """End every connection, whatever it is doing. Returns how many were cut in a transaction."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT state, pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchall()
        return sum(state not in (None, "idle") for state, _ in rows)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, command: list[str]) -> None:
        subprocess.run(command, check=True, user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.crash()
        shutil.rmtree(self._folder, ignore_errors=True)


def postgres_is_installed() -> bool:
    """Whether this machine has the server's programs."""
    return bool(_find("initdb") and _find("postgres"))


def _dying_with_us() -> list[str]:
    """Before a command that the user `postgres` runs, who may not read our `worker.leash`."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _binary(name: str) -> str:
    found = _find(name)
    assert found is not None
    return found


def _find(name: str) -> str | None:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(installed[-1]) if installed else shutil.which(name)


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()
