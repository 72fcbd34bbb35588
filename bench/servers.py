"""What the measurements run against: fresh databases, servers as processes, and their memory."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import create_engine, text

from migrations import upgrade

ROOT = Path(__file__).resolve().parent.parent
POSTGRES = os.environ.get("AXFORGE_BENCH_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")
START_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A process that listens on loopback."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def rss_mib(self) -> float:
        """Memory that the process holds now."""
        return self._memory("VmRSS")

    @property
    def peak_rss_mib(self) -> float:
        """The most that it held since `forget_peak`, or since it started."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """Let the peak begin anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _memory(self, name: str) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
        raise RuntimeError(f"no {name} in /proc")


@contextmanager
def fresh_database(backend: str, folder: Path) -> Iterator[str]:
    """The URL of a database with the service's tables, dropped at the end."""
    if backend == "sqlite":
        url = f"sqlite:///{folder / 'bench.db'}"
        upgrade(url)
        yield url
        return
    schema = f"bench_{secrets.token_hex(6)}"
    _on_postgres(f"CREATE SCHEMA {schema}")
    try:
        url = f"{POSTGRES}?options={quote(f'-csearch_path={schema}')}"
        upgrade(url)
        yield url
    finally:
        _on_postgres(f"DROP SCHEMA {schema} CASCADE")


@contextmanager
def service(database: str, folder: Path, **settings: str) -> Iterator[Server]:
    """The service as an operator starts it: `axforge serve`, its log into a file of `folder`."""
    variables = {"AXFORGE_DATABASE_URL": database, "AXFORGE_DATA_DIR": str(folder), **settings}
    with _process([str(Path(sys.executable).with_name("axforge")), "serve"], folder, variables) as server:
        yield server


@contextmanager
def bare(database: str, folder: Path) -> Iterator[Server]:
    """`bench.bare` under the same HTTP server."""
    command = [sys.executable, "-m", "uvicorn", "bench.bare:app", "--no-access-log", "--log-level", "warning"]
    with _process(command, folder, {"BENCH_DATABASE": database}) as server:
        yield server


def until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait for any HTTP answer on the port."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if connection.recv(64):
                    return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("a server did not start; see its log")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _process(command: list[str], folder: Path, variables: Mapping[str, str]) -> Iterator[Server]:
    port = free_port()
    with (folder / f"server-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, env={**os.environ, **variables}, stderr=log, stdout=log
        )
        try:
            until_it_answers(process, port)
            yield Server(process, port)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _on_postgres(statement: str) -> None:
    engine = create_engine(POSTGRES, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()
