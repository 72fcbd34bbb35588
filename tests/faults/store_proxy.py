"""Stands between the service and an S3 server, and spoils what passes as the test says."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

Fault = Literal["error", "cut", "short", "slow", "half stored"]
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "host"}


class StoreProxy(ThreadingHTTPServer):
    """Set `fault` to spoil requests and `left` to how many; `spoiled` counts them.

    `error`: 500. `cut`: the connection ends in the middle of the body. `short`: half of the body as if
    it were all. `slow`: piece by piece. `half stored`: an upload of which half arrives, and is answered 200.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.fault: Fault | None = None
        self.left = 0
        self.spoiled = 0
        self._lock = threading.Lock()

    def spoil(self, fault: Fault, times: int = 10**9) -> None:
        self.fault, self.left, self.spoiled = fault, times, 0

    def behave(self) -> None:
        self.fault = None

    def take(self, method: str) -> Fault | None:
        """The fault of this request, if it is one that the fault is about."""
        about = {"error": {"GET", "PUT", "HEAD", "POST"}, "half stored": {"PUT"}}
        with self._lock:
            fault = self.fault
            if fault is None or self.left <= 0 or method not in about.get(fault, {"GET"}):
                return None
            self.left -= 1
            self.spoiled += 1
            return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StoreProxy

    def do_any(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.take(self.command)
        if fault == "error":
            self._answer(500, [], b"<Error><Code>InternalError</Code></Error>")
            return
        if fault == "half stored":
            content = content[: len(content) // 2]
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        connection.request(self.command, self.path, content, headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, answer.getheaders(), body, fault, length)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        fault: Fault | None = None,
        length: str | None = None,
    ) -> None:
        if fault == "short":
            body = body[: len(body) // 2]
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        step = max(1, len(body) // 8) if fault == "slow" else max(1, len(body))
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            self.wfile.flush()
            if fault == "slow":
                time.sleep(0.1)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def store_proxy(upstream: str) -> Iterator[StoreProxy]:
    proxy = StoreProxy(upstream)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
