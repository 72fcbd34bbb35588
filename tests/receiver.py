"""A receiver of webhooks on loopback that answers as it is told."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook as Verifier

Behaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Message:
    """What came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, object]:
        """The document, if the signature is one of `secret`; otherwise the library's error."""
        document = Verifier(secret).verify(self.body, self.headers)
        assert isinstance(document, dict)
        return document


@dataclass
class Receiver:
    """Where it listens, what came, and how it answers: set `behaviour` at any time."""

    port: int
    behaviour: Behaviour
    messages: list[Message] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def hang(self, request: BaseHTTPRequestHandler) -> None:
        """Answer nothing until `released` is set."""
        self.released.wait(60)
        answering(200)(request)

    def drip(self, request: BaseHTTPRequestHandler) -> None:
        """Send a header without an end, a byte at a time."""
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.released.wait(0.05):
            request.wfile.write(b"a")


def answering(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    """Answer so."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


@contextmanager
def listening(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver that answers 204 unless told otherwise."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.messages.append(Message(self.path, dict(self.headers.items()), body))
            try:
                receiver.behaviour(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the sender lost its patience, as it should

        def handle(self) -> None:
            try:
                super().handle()
            except ssl.SSLError:
                self.close_connection = True  # the sender did not like the certificate

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:  # the handshake is left to the thread of the request
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver = Receiver(server.server_address[1], answering(204))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
