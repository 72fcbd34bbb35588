"""The metrics of one API process, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, disable_created_metrics

from app.bounded import Threads
from app.metrics.http import HttpMetrics
from app.metrics.rates import RateMetrics
from app.metrics.stored import StoredMetrics
from app.rates import RateLimits
from app.version import VERSION
from models.database import Database
from models.settings import Settings


class Metrics:
    """`stored` and `reading` are there while the application runs."""

    stored: StoredMetrics
    reading: Threads

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series of each process and nobody alerts on them
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.http = HttpMetrics(self.registry)
        build = Gauge("axforge_build_info", "The version that runs.", ("version",), registry=self.registry)
        build.labels(VERSION).set(1)

    @contextmanager
    def reading_from(self, database: Database, settings: Settings, rates: RateLimits) -> Iterator[None]:
        """Show what this database holds, too, and what these limits counted."""
        self.stored = StoredMetrics(database, settings)
        self.reading = Threads(1)
        of_rates = RateMetrics(rates)
        self.registry.register(self.stored)
        self.registry.register(of_rates)
        try:
            yield
        finally:
            self.registry.unregister(of_rates)
            self.registry.unregister(self.stored)
