"""Metrics of this process' rate limits: what they refused, and when they could not count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from app.rates import RATE_CLASSES, RateLimits


class RateMetrics(Collector):
    """Shows what `rates` counted since the process began."""

    def __init__(self, rates: RateLimits) -> None:
        self._rates = rates

    def describe(self) -> Iterable[Metric]:
        """The names, for the registry."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Every class from the start, so that the first refusal is a rise."""
        refused = CounterMetricFamily(
            "axforge_rate_limited", "Requests that were refused because they came too fast.", labels=["class"]
        )
        for name in RATE_CLASSES:
            refused.add_metric([name], self._rates.refused[name])
        yield refused
        yield CounterMetricFamily(
            "axforge_rate_limit_failures",
            "Times that Redis did not count a request; for some seconds after each nobody is limited.",
            value=self._rates.failures,
        )
