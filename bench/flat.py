"""`python -m bench.flat`: what claims and lists cost at 1,000 and at 1,000,000 job rows.

    AXFORGE_BENCH_POSTGRES=postgresql://user@host/database python -m bench.flat [--jobs 1000 1000000]

For SQLite and Postgres (an own schema in the database that is named; left out without it), and for
two mixes: a long queue (90 % of the jobs wait) and a long history (1 % wait), five tenants in both,
one of which has more than half. Times are medians of the call inside a transaction, without the commit,
whose cost does not depend on the table. Written to bench/results/service.json under "flat".
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from app.jobs import repository
from app.jobs.repository import JobFilter
from app.pages import Position
from bench.fill import fill
from bench.record import machine, record
from migrations import upgrade
from models import lifecycle, queue
from models.base import utc_now
from models.database import Database
from models.job import DEFAULT_TENANT, JobStatus

MIXES = {"queue": 0.9, "history": 0.01}
LIMIT = 1.5
WARM_UP = 20
Asked = Callable[[Session], Any]


def main() -> int:
    """Measure; exit 1 if a claim or list grew by the limit or more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs=2, default=[1_000, 1_000_000], metavar=("FEW", "MANY"))
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    results = {
        f"{backend}, long {mix}": _compared(backend, MIXES[mix], arguments.jobs, arguments.rounds)
        for backend in ("sqlite", *(("postgresql",) if "AXFORGE_BENCH_POSTGRES" in os.environ else ()))
        for mix in MIXES
    }
    measured = {"jobs": arguments.jobs, "rounds": arguments.rounds, "limit": LIMIT, "results": results}
    record("flat", {"machine": machine(), **measured})
    grown = [row["ratio"] for result in results.values() for row in result.values()]
    return int(max(grown) >= LIMIT)


def _compared(backend: str, queued: float, sizes: list[int], rounds: int) -> dict[str, dict[str, float]]:
    with _filled(backend, sizes[0], queued) as few, _filled(backend, sizes[1], queued) as many:
        both = zip(_asked(sizes[0]).items(), _asked(sizes[1]).values(), strict=True)
        result = {name: _both(few, ask, many, ask_many, rounds) for (name, ask), ask_many in both}
    for name, row in result.items():
        print(f"{backend:10}  {queued:4.0%} queued  {name:20}", *(f"{key} {row[key]:8}" for key in row))
    return result


@contextmanager
def _filled(backend: str, jobs: int, queued: float) -> Iterator[Database]:
    with _empty(backend) as url:
        upgrade(url)
        database = Database(url)
        fill(database, jobs, queued=queued)
        yield database
        database.close()


def _asked(jobs: int) -> dict[str, Asked]:
    deep = Position(utc_now() - timedelta(seconds=jobs * 0.5), "job_")

    def page(narrowed: JobFilter, position: Position | None = None) -> Asked:
        return lambda session: repository.page(session, DEFAULT_TENANT, narrowed, position, 21)

    return {
        "list": page(JobFilter()),
        "list, deep page": page(JobFilter(), deep),
        "list by status": page(JobFilter(statuses=(JobStatus.FAILED,))),
        "list by name": page(JobFilter(name="job"), deep),
        "count for hints": lambda session: queue.claimable(session, 10),  # as many as wait at the least
        "claim": lambda session: lifecycle.claim(session, "bench", 60.0),
    }


def _both(few: Database, ask_few: Asked, many: Database, ask_many: Asked, rounds: int) -> dict[str, float]:
    """In turns, so that whatever else the machine does meets both."""
    times: list[tuple[float, float]] = [
        (_seconds(few, ask_few), _seconds(many, ask_many)) for _ in range(WARM_UP + rounds)
    ]
    medians = [statistics.median(column) for column in zip(*times[WARM_UP:], strict=True)]
    return {
        "few_ms": round(medians[0] * 1e3, 3),
        "many_ms": round(medians[1] * 1e3, 3),
        "ratio": round(medians[1] / medians[0], 2),
    }


def _seconds(database: Database, ask: Asked) -> float:
    """Every claim is rolled back, so that all rounds meet the same queue."""
    with database.rehearsal() as session:
        session.connection()
        begun = time.perf_counter()
        assert ask(session)
        return time.perf_counter() - begun


@contextmanager
def _empty(backend: str) -> Iterator[str]:
    if backend == "sqlite":
        with tempfile.TemporaryDirectory(prefix="axforge-bench-") as folder:
            yield f"sqlite:///{Path(folder) / 'axforge.db'}"
        return
    url, schema = os.environ["AXFORGE_BENCH_POSTGRES"], f"bench_{secrets.token_hex(4)}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
        try:
            yield f"{url}?options={quote(f'-csearch_path={schema}')}"
        finally:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
