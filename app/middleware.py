"""Around every request: its id, the access log, security headers, the last net for errors."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import response, unexpected

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
QUIET_PATHS = frozenset({"/healthz", "/readyz"})

access_log = structlog.get_logger("app.access")


class RequestMiddleware:
    """The outermost layer. An id that the client sends as `X-Request-ID` is kept and echoed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id)
        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, answer.send)
            except Exception:
                access_log.exception("unexpected_error", method=scope["method"], path=scope["path"])
                await answer.fail(scope, receive)
            finally:
                _log_access(scope, answer.status, time.perf_counter() - started)


class _Answer:
    """Adds the headers that every answer carries, and remembers what was answered."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-cache")
        await self._send(message)

    async def fail(self, scope: Scope, receive: Receive) -> None:
        """Tell the client, unless its answer has begun: then the connection just ends."""
        if self.status is not None:
            raise ConnectionAbortedError("the answer broke off; the cause is in the log")
        await response(unexpected(), self._request_id)(scope, receive, self.send)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


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
    )
