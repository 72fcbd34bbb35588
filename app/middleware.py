"""Around every request: its id, the access log, security headers, the last net for errors."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.metrics.http import HttpMetrics, RequestMetrics, route_of
from app.problems import response, unexpected
from models import telemetry

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
USUAL_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-cache"),
)
"""Of every answer that does not say otherwise; written as ASGI sends them."""
QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

access_log = structlog.get_logger("app.access")


class RequestMiddleware:
    """The outermost layer. An id that the client sends as `X-Request-ID` is kept and echoed."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        measured = self._metrics.request(scope)
        answer = _Answer(send, request_id, scope["state"], measured)
        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id), _traced(scope, headers) as span:
            try:
                await self._app(scope, receive, answer.send)
            except Exception:
                access_log.exception("unexpected_error", method=scope["method"], path=scope["path"])
                await answer.fail(scope, receive)
            finally:
                measured.ended(answer.status)
                _name(span, scope, answer.status)
                _log_access(scope, answer.status, time.perf_counter() - started)


class _Answer:
    """Adds the headers that every answer carries, and remembers what was answered."""

    def __init__(
        self, send: Send, request_id: str, state: Mapping[str, Any], measured: RequestMetrics
    ) -> None:
        self._send = send
        self._request_id = request_id
        self._state = state
        self._measured = measured
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = message.get("headers", ())
            said = {name for name, _ in given}
            more = [(b"x-request-id", self._request_id.encode()), *self._limits, *USUAL_HEADERS]
            message["headers"] = [*given, *(each for each in more if each[0] not in said)]
            self._measured.answered(Headers(raw=message["headers"]))
        await self._send(message)

    async def fail(self, scope: Scope, receive: Receive) -> None:
        """Tell the client, unless its answer has begun: then the connection just ends."""
        if self.status is not None:
            raise ConnectionAbortedError("the answer broke off; the cause is in the log")
        await response(unexpected(), self._request_id)(scope, receive, self.send)

    @property
    def _limits(self) -> list[tuple[bytes, bytes]]:
        """What the door had to say about the caller's rate."""
        told = self._state.get("answer_headers", {})
        return [(name.lower().encode(), value.encode()) for name, value in told.items()]


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _traced(scope: Scope, headers: Headers) -> AbstractContextManager[Any]:
    """A span that goes on with the client's trace, if it has one; none for probes."""
    if scope["path"] in QUIET_PATHS:
        return nullcontext()
    parent = {name: headers[name] for name in telemetry.HEADERS if name in headers}
    return telemetry.span(scope["method"], parent=parent, kind="server")


def _name(span: Any, scope: Scope, status: int | None) -> None:
    if span is not None:
        span.update_name(f"{scope['method']} {route_of(scope)}")
        span.set_attribute("http.request.method", scope["method"])
        span.set_attribute("http.route", route_of(scope))
        if status is not None:
            span.set_attribute("http.response.status_code", status)


def _log_access(scope: Scope, status: int | None, seconds: float) -> None:
    if scope["path"] in QUIET_PATHS and status == 200:
        return
    access_log.info(
        "request",
        method=scope["method"],
        path=scope["path"],
        status=status,
        milliseconds=round(seconds * 1000, 1),
        client=(scope.get("client") or ("",))[0],
        key_id=getattr(scope["state"].get("caller"), "key_id", None),
    )
