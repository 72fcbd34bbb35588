"""A stand-in of the Hugging Face hub: the few endpoints that its client asks, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40


@dataclass
class FakeHub:
    """`repositories` maps `models/owner/name` or `datasets/owner/name` to a folder with its files."""

    repositories: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    commit: str = COMMIT
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""

    def downloads(self) -> set[str]:
        """Names of the files whose content was fetched."""
        return {path.split("/", 1)[1] for path in self.requests if path.startswith("GET-FILE/")}

    @contextmanager
    def running(self) -> Iterator[FakeHub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            hub.requests.append(path)
            if path.startswith("api/"):
                self.api(path.removeprefix("api/"))
            else:
                self.file(path if path.startswith("datasets/") else f"models/{path}", with_body)

        def api(self, path: str) -> None:
            name = "/".join(path.split("/")[:3])
            rest = path.split("/")[3:]
            if not self.known(name):
                return
            if rest[:1] == ["revision"] and rest[1:] not in (["main"], [hub.commit]):
                self.send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
            elif rest[:1] == ["tree"]:
                files = self.listing(hub.repositories[name])
                self.send(200, {"Content-Type": "application/json"}, json.dumps(files).encode())
            else:
                answer = {"id": name.split("/", 1)[1], "sha": hub.commit, "siblings": []}
                self.send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

        def listing(self, root: Path) -> list[dict[str, object]]:
            return [
                {
                    "type": "file",
                    "path": path.relative_to(root).as_posix(),
                    "size": path.stat().st_size,
                    "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                }
                for path in sorted(root.rglob("*"))
                if path.is_file()
            ]

        def file(self, path: str, with_body: bool) -> None:
            name, _, rest = path.partition("/resolve/")
            if not self.known(name):
                return
            file = hub.repositories[name] / rest.partition("/")[2]
            if not file.is_file():
                self.send(404, {"X-Error-Code": "EntryNotFound"}, b"")
                return
            content = file.read_bytes()
            if with_body:
                hub.requests.append(f"GET-FILE/{file.name}")
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": hub.commit}
            self.send(200, headers, content, with_body=with_body)

        def known(self, name: str) -> bool:
            if name in hub.gated:
                self.send(403, {"X-Error-Code": "GatedRepo"}, b"")
            elif name not in hub.repositories:
                self.send(404, {"X-Error-Code": "RepoNotFound"}, b"")
            else:
                return True
            return False

        def send(self, status: int, headers: dict[str, str], body: bytes, *, with_body: bool = True) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body and self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the test reads `requests`."""

    return Handler
