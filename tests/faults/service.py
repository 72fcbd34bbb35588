"""The service as real processes on one database and one Redis, with short leases, to be broken."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import update
from sqlalchemy.exc import DBAPIError

from migrations import upgrade
from models.base import utc_now
from models.database import Database
from models.settings import Settings
from models.tables import Job
from tests.conftest import free_port
from tests.faults.servers import PostgresServer, RedisServer
from tests.worker.jobs import create, load, wait_until
from worker.leash import leashed

ROOT = Path(__file__).parent.parent.parent
SERVE = "import typer; from app.command import serve; typer.run(serve)"
DEADLINE_SECONDS = 120.0
SCRIPTED, REAL = "tests.faults.celery_app", "worker.celery_app"


@dataclass
class Service:
    """Starts processes by name; all of them are gone at the end.

    `faults` is the folder that directs the scripted runner; `data_dir` is shared by the workers
    that are not given another, as on one machine.
    """

    folder: Path
    database_url: str
    redis: RedisServer
    postgres: PostgresServer | None = None
    store_url: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.faults.mkdir(parents=True)
        upgrade(self.database_url)
        self.database = Database(self.database_url)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for name in list(self.processes):
            self.kill(name)
        self.database.close()
        if error is not None:
            for log in sorted(self.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")

    @property
    def faults(self) -> Path:
        return self.folder / "faults"

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def settings(self) -> Settings:
        return Settings.model_validate(
            {
                "data_dir": self.data_dir,
                "database_url": self.database_url,
                "broker_url": self.redis.url,
                "store_url": self.store_url or (self.folder / "objects").as_uri(),
                "lease_seconds": 5,
                "heartbeat_seconds": 0.5,
                "stop_grace_seconds": 30,
                "dispatch_seconds": 0.3,
                "reap_seconds": 0.5,
                "allow_paths": True,
            }
        )

    def start(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        """A process that dies with this one; what it says is in `NAME.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                leashed([sys.executable, *command], signal.SIGKILL),
                cwd=ROOT,
                env=os.environ
                | self.settings.environment()
                | {"AXFORGE_FAULTS": str(self.faults)}
                | self.environment
                | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def worker(self, name: str = "worker", app: str = SCRIPTED, **environment: str) -> None:
        """A Celery worker for one job at a time."""
        self.start(
            name,
            [
                *("-m", "celery", "--app", app, "worker", "--pool", "prefork", "--concurrency", "1"),
                *("--hostname", f"{name}@%h", "--loglevel", "WARNING"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ],
            **environment,
        )

    def keepers(self) -> None:
        """Dispatcher and reaper."""
        self.start("dispatcher", ["-m", "worker.dispatcher"])
        self.start("reaper", ["-m", "worker.reaper"])

    def api(self) -> str:
        """The HTTP face; its URL, once it answers."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        self.start("api", ["-c", SERVE, "--port", str(port)])
        wait_until(lambda: _answers(f"{url}/healthz"), DEADLINE_SECONDS)
        return url

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a process its end and wait for it."""
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()

    def family(self, name: str, job_id: str) -> list[int]:
        """Process ids of a worker, its pool child and what that runs for the job, the latter first."""
        worker = self.processes[name].pid
        below = {pid for child in children(worker) for pid in children(child)}
        return [*(pid for pid in runners(job_id) if pid in below), *children(worker), worker]

    def freeze(self, name: str, job_id: str) -> list[int]:
        """Stop a worker's family; its process ids. Not while it writes to SQLite, which nobody else
        can then do: there is one writer, and no server that would end it."""
        family = self.family(name, job_id)
        while True:
            _send(family, signal.SIGSTOP)
            if self.postgres is not None or self._can_be_written():
                return family
            _send(family, signal.SIGCONT)

    def lose_machine(self, name: str, job_id: str) -> None:
        """Kill a worker's family so that none of them can react to the end of another."""
        family = self.family(name, job_id)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            _send(family, number)

    def create(self, **changes: Any) -> str:
        """A queued job, straight in the database."""
        return create(self.database, **changes)

    def hold(self, point: str) -> Path:
        """Have the scripted runner wait at a point until the file is removed."""
        path = self.faults / f"hold-{point}"
        path.touch()
        return path

    def do(self, point: str, deed: str) -> Path:
        """Have the scripted runner do something at a point."""
        path = self.faults / f"at-{point}"
        path.write_text(deed)
        return path

    def log(self) -> list[str]:
        """Lines `ATTEMPT WHAT` of the scripted runners, in order."""
        file = self.faults / "log"
        return file.read_text().splitlines() if file.exists() else []

    def work(self) -> Counter[str]:
        """How often the scripted runners began each piece of work."""
        return Counter(line.split()[1] for line in self.log())

    def done_twice(self) -> dict[str, int]:
        """The pieces of work that were begun more than once, and how often."""
        return {what: times for what, times in self.work().items() if times > 1}

    def wait_for_work(self, line: str) -> None:
        wait_until(lambda: line in self.log(), DEADLINE_SECONDS)

    def wait_until_done(self, *job_ids: str, seconds: float = DEADLINE_SECONDS) -> None:
        """Until all jobs have ended. Waiting times between attempts are skipped."""

        def all_done() -> bool:
            try:
                self.hurry()
                return all(load(self.database, job_id).done for job_id in job_ids)
            except DBAPIError:
                return False  # the database is what the test breaks

        wait_until(all_done, seconds)

    def hurry(self) -> None:
        """Let the queued jobs be taken now."""
        with self.database.transaction() as session:
            waiting = update(Job).where(Job.available_at > utc_now())
            session.execute(waiting.values(available_at=utc_now()))

    def _can_be_written(self) -> bool:
        with closing(sqlite3.connect(self.folder / "axforge.db", timeout=1.0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
        return True


def runners(job_id: str) -> list[int]:
    """Process ids of the runners of that job."""
    return [pid for pid, words in _processes() if job_id in words and "worker.leash" not in words]


def children(pid: int) -> list[int]:
    """Process ids of the children of a process."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def is_alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _send(family: list[int], number: signal.Signals) -> None:
    for pid in family:
        os.kill(pid, number)


def _processes() -> list[tuple[int, list[str]]]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_text().split("\0") if entry.name.isdigit() else []
        except OSError:  # it ended while we looked
            continue
        if words:
            found.append((int(entry.name), words))
    return found


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
