"""`make bench-fanout`: the stages *analyse* and *search* of the MiniLM job, on one worker and on two.

The job is first run up to the end of its search by the engine alone. Then its files up to the baseline
are handed to workers of a service (Celery, SQLite, a Redis of its own) again and again: they fetch the
checkpoint as another machine would, do the two stages, and are cancelled. So loading what the baseline
left is part of what is measured; the latency table is not, it is in the machine's cache by then, as for
every job but a machine's first. The settings take turns:

    one worker on all cores                 what one gets without sharing
    one worker on one core                  as much machine as one of two workers has, on two cores
    two workers, half of the cores each     the same machine, shared

A trial that its time cuts short does less where there is less machine, in no more seconds.
Written to bench/results/fanout.json. `--tiny` tries the program with a tiny model and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import select

from bench.main import EXAMPLE, ROOT, base_model, data_folder
from bench.record import machine, record
from bench.recovery import process_of
from bench.servers import fresh_database
from models import lifecycle
from models.database import Database
from models.settings import Settings
from models.spec import Candidate, JobSpec
from models.store import open_store
from models.tables import Event, Job, Shard
from worker.checkpoints import LOCAL_ONLY, Checkpoints
from worker.embedded import bundled_redis
from worker.engine.errors import Stopped
from worker.engine.measure.machine import usable_processors
from worker.engine.reporting import FINISHED, STARTED, SilentReporter, Stage
from worker.workfolder import work_folder

RESULTS = ROOT / "bench" / "results" / "fanout.json"
TASK = "banking77-30"
LOOK_SECONDS = 0.02
PATIENCE_SECONDS = 600.0
SEED = 0
MAX_MINUTES = 4.0  # of the job: shorter stages, so that three rounds are not an hour
WORKERS = (2, 8)  # for which the bound is worked out
WEIGHING, TRYING = "weighing elements", "trying arms"  # what the engine calls its shared work
SOURCES = ("base_model", "dataset")
STAGES_BEFORE = ("prepare", "baseline")
STAGES = ("analyse", "search")  # that are shared
CLOCK = "clock.json"  # a round does not begin with what another has spent


@dataclass(frozen=True)
class Setting:
    """How many workers there are, and the threads of each."""

    name: str
    workers: int
    threads: int


def main() -> None:
    """Run the job's first stages once, then the shared ones in turns; record the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="axforge-bench-") as name:
        folder = Path(name)
        os.environ["AXFORGE_CACHE_DIR"] = str(folder / "cache")
        spec = tiny_spec(folder) if arguments.tiny else main_spec()
        clock = first_stages(spec, folder / "job")
        taken = in_turns(spec, folder, arguments.rounds)
    asked = {name: value for name, value in spec.items() if name not in SOURCES}  # paths of this machine
    alone = {
        "stage_seconds": clock.stages,
        "weighing_seconds": clock.weighing_seconds,
        "trials": clock.trials,
        "trials_seconds": clock.trials_seconds,
    }
    results = {
        "job": {"data": TASK, "spec": asked, **alone},
        "stages": {stage: compared(taken, stage) for stage in STAGES},
        "rounds_taken": taken,
        "at_best": at_best(clock, helper_start(taken)),
        "machine": machine() | {"threads": usable_processors()},
        "rounds": arguments.rounds,
        "seed": SEED,
    }
    if not arguments.tiny:
        for key, value in results.items():
            record(key, value, RESULTS)
    print(json.dumps({name: results[name] for name in ("job", "stages", "at_best")}, indent=1))


def main_spec() -> dict[str, Any]:
    """The example job with less time, its files by their paths here."""
    spec: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    sources = {"base_model": {"path": str(base_model())}, "dataset": {"path": str(data_folder(TASK))}}
    return {**spec, **sources, "budget": {"max_minutes": MAX_MINUTES}, "seed": SEED}


def tiny_spec(folder: Path) -> dict[str, Any]:
    """A job that shows that the program runs, with just enough elements for a helper to come in time."""
    from tests.engine import runs
    from tests.tiny_models import save_tiny_model

    (folder / "sources").mkdir()
    sources = runs.tiny_sources(folder / "sources")
    lines = (folder / "sources" / "data" / "train.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    shutil.rmtree(sources["base_model"]["path"])
    save_tiny_model(
        folder / "sources" / "model", texts, layers=12, hidden=128, heads=8, channels=512, seed=SEED
    )
    constraints = {"size": {"min_reduction": 6.0}}
    return runs.tiny_spec(sources, constraints=constraints, seed=SEED).model_dump(mode="json")


class Clock(SilentReporter):
    """Notes when stages began and ended, and what the shared ones report; stops the run after them."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self.trials = 0
        self._weighed: list[tuple[float, int, int]] = []
        self._tried: list[float] = []
        self._began = 0.0

    def progress(
        self, stage: Stage, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        now = time.monotonic()
        if message == STARTED:
            self._began = now
        elif message == FINISHED:
            self.stages[stage] = round(now - self._began, 3)
        elif message == WEIGHING and total is not None:
            self._weighed.append((now, step, total))
        elif message == TRYING and total is not None:
            self.trials = total
            self._tried.append(now)

    def candidate(self, candidate: Candidate) -> None:
        if self._tried:
            self._tried.append(time.monotonic())

    def check(self) -> None:
        if set(STAGES) <= self.stages.keys():
            raise Stopped

    @property
    def weighing_seconds(self) -> float:
        """Of all elements: from the first to the last, and one more for the first."""
        (began, first, _), (ended, last, total) = self._weighed[0], self._weighed[-1]
        return round((ended - began) / max(1, last - first) * total, 3)

    @property
    def trials_seconds(self) -> float:
        """Of all trials, one after the other."""
        return round(self._tried[-1] - self._tried[0], 3) if self._tried else 0.0


def first_stages(spec: dict[str, Any], folder: Path) -> Clock:
    """What the job's stages up to the search take on one worker."""
    from worker.engine.pipeline import run

    clock = Clock()
    with suppress(Stopped):
        run(JobSpec.model_validate(spec), folder, clock)
    return clock


def in_turns(spec: dict[str, Any], folder: Path, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What each setting took in each round."""
    cores = usable_processors()
    settings = [
        Setting("one worker on all cores", 1, cores),
        Setting("one worker on one core", 1, 1),
        Setting("two workers, half of the cores each", 2, max(1, cores // 2)),
    ]
    taken: dict[str, list[dict[str, Any]]] = {setting.name: [] for setting in settings}
    for _ in range(rounds):
        for setting in settings:
            taken[setting.name].append(one_round(spec, folder, setting))
    return taken


def one_round(spec: dict[str, Any], folder: Path, setting: Setting) -> dict[str, Any]:
    """The stages once: their seconds, how many shares others did, and what a helper took to begin."""
    with tempfile.TemporaryDirectory(prefix="round-", dir=folder) as name, ExitStack() as parts:
        here = Path(name)
        url = parts.enter_context(fresh_database("sqlite", here))
        broker = parts.enter_context(bundled_redis(here))
        assert broker is not None, "the bundled Redis did not start"
        settings = Settings.model_validate(
            {
                "data_dir": here,
                "database_url": url,
                "broker_url": broker,
                "store_url": (here / "objects").as_uri(),
                "allow_paths": True,
            }
        )
        database = Database(url)
        parts.callback(database.close)
        budget = {**spec.get("budget", {}), "max_workers": setting.workers}
        job_id = after_baseline(database, settings, {**spec, "budget": budget}, folder / "job", here)
        environment = settings.environment() | {"OMP_NUM_THREADS": str(setting.threads)}
        parts.enter_context(process_of([sys.executable, "-m", "worker.dispatcher"], environment, here))
        for number in range(setting.workers):
            # A data folder of its own, as on another machine: it has nothing but the checkpoint.
            own = environment | {"AXFORGE_DATA_DIR": str(here / f"worker-{number}")}
            parts.enter_context(worker(own, here))
        return watched(database, job_id)


def after_baseline(
    database: Database, settings: Settings, spec: dict[str, Any], done: Path, folder: Path
) -> str:
    """A queued job whose checkpoint holds the finished stages before the one that is measured."""
    with database.transaction() as session:
        job_id = lifecycle.create(session, JobSpec.model_validate(spec)).id
        assert lifecycle.claim_one(session, job_id, "bench", 600) is not None
    home = work_folder(folder, job_id)
    checkpoints = Checkpoints(database, open_store(settings.store), job_id, 1, home)
    checkpoints.folder.mkdir(parents=True)
    for entry in done.iterdir():
        if entry.name in STAGES_BEFORE:
            shutil.copytree(entry, checkpoints.folder / entry.name)
        elif entry.is_file() and entry.name not in (*LOCAL_ONLY, CLOCK):
            shutil.copy(entry, checkpoints.folder)
    checkpoints.save()
    with database.transaction() as session:
        lifecycle.release(session, job_id, 1, message="to be measured")
    return job_id


def watched(database: Database, job_id: str) -> dict[str, Any]:
    """Wait until the stages are done, and look when a helper came and when it began."""
    came: float | None = None
    began: float | None = None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with database.session() as session:
            told = {
                (one.type, one.data.get("stage")): one.data
                for one in session.scalars(select(Event).where(Event.job_id == job_id))
            }
            helped = session.scalars(select(Shard.begun).where(Shard.holder.is_not(None))).all()
            error = session.get_one(Job, job_id).error
        if error is not None:
            raise SystemExit(f"the job failed: {error}")
        now = time.monotonic()
        came = now if came is None and helped else came
        began = now if began is None and any(helped) else began
        if all(("stage.finished", stage) in told for stage in STAGES):
            if ("stage.finished", "baseline") in told:
                raise SystemExit("the worker did not go on from the checkpoint")
            with database.transaction() as session:
                lifecycle.request_cancel(session, job_id)
            others = {stage: told.get((f"{stage}.shared", None), {}).get("by_others", 0) for stage in STAGES}
            return {
                "seconds": {stage: told["stage.finished", stage]["seconds"] for stage in STAGES},
                "shares_by_others": others,
                "helper_start_seconds": None if came is None or began is None else round(began - came, 2),
            }
        time.sleep(LOOK_SECONDS)
    raise SystemExit(f"the stages were not done within {PATIENCE_SECONDS:g} seconds")


def compared(taken: dict[str, list[dict[str, Any]]], stage: str) -> dict[str, Any]:
    """Medians of the settings at a stage, and how much faster two workers were than one, by these."""
    medians = {
        name: round(statistics.median(each["seconds"][stage] for each in rounds), 3)
        for name, rounds in taken.items()
    }
    all_cores, one_core, shared = medians.values()
    return {
        "median_seconds": medians,
        "speedup_of_two_workers": {
            "over one on all cores": round(all_cores / shared, 3),
            "over one on one core": round(one_core / shared, 3),
        },
    }


def helper_start(taken: dict[str, list[dict[str, Any]]]) -> float | None:
    """Seconds from a helper's claim until it began to compute: the median of the rounds that had one."""
    starts = [each["helper_start_seconds"] for rounds in taken.values() for each in rounds]
    known = [start for start in starts if start is not None]
    return round(statistics.median(known), 2) if known else None


def at_best(clock: Clock, start: float | None) -> dict[str, Any] | None:
    """What the shared work would take with several machines like this one (docs/performance.md).

    Worked out from the seconds on one of them and the seconds that a helper takes to `start`, with shares of
    the weighing that end together and trials of equal length: a bound and no measurement.
    """
    if start is None:
        return None
    weighing, trials = clock.weighing_seconds, clock.trials_seconds
    saved = {}
    for workers in WORKERS:
        weighed = (weighing + (workers - 1) * min(start, weighing)) / workers
        tried = trials_together(clock.trials, trials / max(1, clock.trials), start, workers)
        saved[str(workers)] = {
            "speedup_of_weighing": round(weighing / weighed, 3),
            "speedup_of_trials": round(trials / tried, 3) if tried else None,
            "seconds_saved": round(weighing - weighed + trials - tried, 1),
        }
    return {"helper_start_seconds": start, "workers": saved}


def trials_together(trials: int, each: float, start: float, workers: int) -> float:
    """Seconds for `trials` of `each` seconds on a run and `workers` - 1 helpers that begin `start` later."""
    own = (
        max(mine * each, start + math.ceil((trials - mine) / (workers - 1)) * each)
        for mine in range(1, trials)
    )
    return min((trials * each, *own))


@contextmanager
def worker(environment: dict[str, str], folder: Path) -> Iterator[None]:
    """A Celery worker for one job at a time."""
    command = [
        *(sys.executable, "-m", "celery", "--app", "worker.celery_app", "worker"),
        *("--pool", "prefork", "--concurrency", "1", "--hostname", f"{secrets.token_hex(4)}@%h"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"),
    ]
    with process_of(command, environment, folder):
        yield


if __name__ == "__main__":
    main()
