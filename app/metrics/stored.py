"""Metrics of what is stored: the same from every API process, and true after any restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from sqlalchemy.exc import SQLAlchemyError

from app.metrics import repository
from app.metrics.repository import Queue, Running
from models import tally
from models.database import Database
from models.settings import Settings

FRESH_SECONDS = 2.0
# Older than this, what was read says nothing about now: the database does not answer in time.
STALE_SECONDS = 30.0
COUNTERS = {
    # name in the tally: (name of the metric, label, help, values that are shown from the start)
    "jobs_finished": (
        "axforge_jobs_finished",
        "status",
        "Jobs that ended.",
        ("succeeded", "failed", "cancelled"),
    ),
    "job_failures": ("axforge_job_failures", "code", "Jobs that failed, by the code of their error.", ()),
    "job_requeues": (
        "axforge_job_requeues",
        "reason",
        "Runs that gave their job back (orderly), or died or lost it (lost).",
        ("orderly", "lost"),
    ),
    "candidates": (
        "axforge_candidates",
        "outcome",
        "Candidates measured; one that a resumed run measures again counts again.",
        ("accepted", "refused"),
    ),
    "webhook_deliveries": (
        "axforge_webhook_deliveries",
        "outcome",
        "Tries to deliver a webhook: delivered, failed (to be tried again), exhausted (given up).",
        ("delivered", "failed", "exhausted"),
    ),
}
STAGE_SECONDS = "stage_seconds"
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What the database held at one moment."""

    read_at: float
    queue: Queue
    running: list[Running]
    totals: dict[tally.Key, float]


class StoredMetrics(Collector):
    """Shows the last snapshot; `refresh` takes a new one unless the last is fresh.

    Args:
        settings: How long a heartbeat extends a lease, and the minutes of tenants without own limit.
    """

    def __init__(
        self, database: Database, settings: Settings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read the database, at most once in two seconds however many ask."""
        with self._lock:
            if self._age() < FRESH_SECONDS:
                return
            try:
                with self._database.session() as session:
                    self._snapshot = Snapshot(
                        self._clock(),
                        repository.queue(session, self._settings.quota_compute_minutes),
                        repository.running(session),
                        repository.totals(session),
                    )
            except SQLAlchemyError as error:
                self._snapshot = None
                log.warning("metrics_not_read", error=type(error).__name__)

    def describe(self) -> Iterable[Metric]:
        """The names, for the registry, which would otherwise have the metrics collected."""
        return [_gauge("axforge_database_up", "")]

    def collect(self) -> Iterator[Metric]:
        """The last snapshot as metrics, or only that there is none."""
        snapshot = self._snapshot if self._age() < STALE_SECONDS else None
        yield _gauge("axforge_database_up", "Whether the database was read.", float(snapshot is not None))
        if snapshot is not None:
            yield from _of_queue(snapshot)
            yield from _of_runs(snapshot, self._settings.lease_seconds)
            yield from _counters(snapshot.totals)
            yield _stages(snapshot.totals)

    def _age(self) -> float:
        return float("inf") if self._snapshot is None else self._clock() - self._snapshot.read_at


def _of_queue(snapshot: Snapshot) -> Iterator[Metric]:
    queue = snapshot.queue
    jobs = GaugeMetricFamily("axforge_jobs", "Jobs that have not ended.", labels=["status"])
    jobs.add_metric(["queued"], queue.queued)
    jobs.add_metric(["running"], len(snapshot.running))
    yield jobs
    yield _gauge("axforge_jobs_claimable", "Queued jobs whose time has come.", queue.claimable)
    yield _gauge("axforge_jobs_held", "Queued jobs whose tenants have used up their minutes.", queue.held)
    waited = 0.0 if queue.oldest is None else max(0.0, (queue.clock - queue.oldest).total_seconds())
    yield _gauge(
        "axforge_jobs_oldest_queued_age_seconds", "Since the first queued job could have started.", waited
    )


def _of_runs(snapshot: Snapshot, lease_seconds: float) -> Iterator[Metric]:
    left = [
        (run.lease_until - snapshot.queue.clock).total_seconds()
        for run in snapshot.running
        if run.lease_until is not None
    ]
    oldest = max((lease_seconds - seconds for seconds in left), default=0.0)
    yield _gauge(
        "axforge_lease_age_seconds_max", "Since the heartbeat of the run that is silent the longest.", oldest
    )
    expired = sum(seconds < 0 for seconds in left)
    yield _gauge("axforge_leases_expired", "Runs that the reaper has to take back.", expired)
    memory = GaugeMetricFamily(
        "axforge_run_memory_bytes_max",
        "The most memory that one of the running runs has held: of its machine, of its GPU.",
        labels=["kind"],
    )
    for kind, field in (("host", "memory_bytes"), ("device", "device_memory_bytes")):
        told = [run.progress[field] for run in snapshot.running if run.progress and field in run.progress]
        if told:  # a run on a machine without a GPU says nothing of one, and that is not 0
            memory.add_metric([kind], max(told))
    yield memory


def _counters(totals: dict[tally.Key, float]) -> Iterator[Metric]:
    for name, (metric, label, help_text, always) in COUNTERS.items():
        family = CounterMetricFamily(metric, help_text, labels=[label])
        values = dict.fromkeys(always, 0.0) | {
            key[1]: value for key, value in totals.items() if key[0] == name
        }
        for text, value in values.items():
            family.add_metric([text], value)
        yield family


def _stages(totals: dict[tally.Key, float]) -> Metric:
    family = HistogramMetricFamily(
        "axforge_stage_duration_seconds",
        "How long the stages of runs took, where one run began and ended them.",
        labels=["stage"],
    )
    for stage in sorted({label for name, label, _ in totals if name == STAGE_SECONDS}):
        buckets = []
        below = 0.0
        for bound in [f"{bound:g}" for bound in tally.BUCKETS] + [tally.OVER]:
            below += totals.get((STAGE_SECONDS, stage, bound), 0.0)
            written = floatToGoString(bound)  # type: ignore[no-untyped-call]
            buckets.append((written, below))
        family.add_metric([stage], buckets, totals.get((STAGE_SECONDS, stage, tally.SUM), 0.0))
    return family


def _gauge(name: str, help_text: str, value: float | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, value=value)
