"""Requests as metrics: counted by route template, never by path, so that clients cannot add series."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.types import Scope

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
UNMATCHED = "unmatched"
ABORTED = "aborted"


class HttpMetrics:
    """The instruments; `request` makes what one request tells them by."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "axforge_http_requests",
            "Requests that ended, by route template, method and status.",
            ("route", "method", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "axforge_http_request_duration_seconds",
            "From the request to the begin of its answer, without those that asked to wait.",
            ("route", "method"),
            buckets=BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "axforge_http_requests_in_flight", "Requests under way, streams included.", registry=registry
        )
        self.streams = Gauge(
            "axforge_http_event_streams_open", "Streams of events that clients follow.", registry=registry
        )

    def request(self, scope: Scope) -> RequestMetrics:
        """Begin to measure a request."""
        return RequestMetrics(self, scope)


class RequestMetrics:
    """One request, from its begin: tell `answered` when the answer begins, `ended` when it is sent."""

    def __init__(self, metrics: HttpMetrics, scope: Scope) -> None:
        self._metrics = metrics
        self._scope = scope
        self._started = time.perf_counter()
        self._streams = False
        metrics.in_flight.inc()

    def answered(self, headers: Headers) -> None:
        """The answer begins."""
        self._streams = headers.get("content-type", "").startswith("text/event-stream")
        if self._streams:
            self._metrics.streams.inc()
        if "preference-applied" not in headers:
            seconds = time.perf_counter() - self._started
            self._metrics.seconds.labels(route_of(self._scope), self._method).observe(seconds)

    def ended(self, status: int | None) -> None:
        """Nothing more is sent."""
        self._metrics.in_flight.dec()
        if self._streams:
            self._metrics.streams.dec()
        code = ABORTED if status is None else str(status)
        self._metrics.requests.labels(route_of(self._scope), self._method, code).inc()

    @property
    def _method(self) -> str:
        method = self._scope["method"]
        return method if method in METHODS else "other"


def route_of(scope: Scope) -> str:
    """The template of the route that serves the request, known once the router has found it."""
    return getattr(scope.get("route"), "path", None) or UNMATCHED
