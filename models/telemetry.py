"""Traces, as OpenTelemetry has them, from a request to the stages of the run that it caused.

Off unless the extra `otel` is installed and OTEL_EXPORTER_OTLP_ENDPOINT (or its variant for
traces) is set; then nothing of OpenTelemetry is imported and every function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
HEADERS = ("traceparent", "tracestate")
Kind = Literal["internal", "server", "consumer"]
log = structlog.get_logger(__name__)

_provider: TracerProvider | None = None


@contextmanager
def exporting(service: str) -> Iterator[None]:
    """Export this process's spans, if that is asked for; at the end, send what is left.

    To be entered after any fork, since a thread does the sending.
    """
    global _provider
    before, _provider = _provider, _make_provider(service)
    try:
        yield
    finally:
        if _provider is not None:
            _provider.shutdown()
        _provider = before


@contextmanager
def span(
    name: str,
    *,
    parent: Mapping[str, str] | None = None,
    kind: Kind = "internal",
    **attributes: str | int | float,
) -> Iterator[Any]:
    """A span around what is done inside; its `trace_id` is bound to the logs meanwhile.

    Args:
        parent: W3C headers (`traceparent`, `tracestate`) of a span elsewhere; default: the current span.
        attributes: `__` in a name stands for a dot.

    Yields:
        The span, or None where there is no tracing.
    """
    if _provider is None:
        yield None
        return
    from opentelemetry.trace import SpanKind, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = None if parent is None else TraceContextTextMapPropagator().extract(parent)
    named = {key.replace("__", "."): value for key, value in attributes.items()}
    with (
        _provider.get_tracer("axforge").start_as_current_span(
            name,
            context=context,
            kind=SpanKind[kind.upper()],
            attributes=named,
            # Neither: messages and tracebacks may hold what is the user's, or a secret.
            record_exception=False,
            set_status_on_exception=False,
        ) as current,
        structlog.contextvars.bound_contextvars(trace_id=f"{current.get_span_context().trace_id:032x}"),
    ):
        try:
            yield current
        except Exception as error:
            current.set_status(StatusCode.ERROR, type(error).__name__)
            raise


def carrier() -> dict[str, str]:
    """The W3C headers that tie something elsewhere to the current span; empty without one."""
    headers: dict[str, str] = {}
    if _provider is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return headers


def carrier_or_none() -> dict[str, str] | None:
    """As `carrier`, with None for none: what is stored with a job."""
    return carrier() or None


def environment() -> dict[str, str]:
    """The current span as variables (TRACEPARENT, TRACESTATE) for a child process."""
    return {name.upper(): value for name, value in carrier().items()}


def from_environment() -> dict[str, str]:
    """What `environment` gave the parent process for this one."""
    return {name: os.environ[name.upper()] for name in HEADERS if name.upper() in os.environ}


def _make_provider(service: str) -> TracerProvider | None:
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("traces_not_exported", remedy="pip install 'axforge-server[otel]'")
        return None
    resource = Resource.create({"service.namespace": "axforge", "service.name": f"axforge-{service}"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
