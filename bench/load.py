"""HTTP load from raw sockets: each connection sends the next request when its answer has come.

A client library would cost more than the server that is measured. This one knows just what the
service's answers need: keep-alive, Content-Length.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

WARM_UP_SECONDS = 0.2


@dataclass
class Load:
    """What came back."""

    seconds: float
    statuses: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, fraction: float) -> float:
        """Seconds within which that fraction of the requests was answered."""
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(fraction * len(self.latencies)))]


def request(method: str, path: str, *, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of a request; a header's name is written with `_` for `-`."""
    fields = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **headers}
    head = [f"{method} {path} HTTP/1.1", *(f"{n.replace('_', '-')}: {v}" for n, v in fields.items())]
    return "\r\n".join([*head, "", ""]).encode() + body


async def press(port: int, message: Callable[[], bytes], *, connections: int, seconds: float) -> Load:
    """Send what `message` gives again and again over that many connections to a server on loopback."""
    began = time.perf_counter() + WARM_UP_SECONDS
    load = Load(seconds)
    await asyncio.gather(
        *(_exchange(port, message, began, began + seconds, load) for _ in range(connections))
    )
    return load


async def _exchange(port: int, message: Callable[[], bytes], began: float, end: float, load: Load) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while (sent := time.perf_counter()) < end:
            writer.write(message())
            status = (await answer(reader)).status
            if (arrived := time.perf_counter()) >= began and arrived < end:
                load.latencies.append(arrived - sent)
                load.statuses[status] = load.statuses.get(status, 0) + 1
    finally:
        writer.close()


@dataclass(frozen=True)
class Answer:
    """One answer, read to its end; the names of its headers are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes


async def answer(reader: asyncio.StreamReader) -> Answer:
    """The next answer of a connection that is kept."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split()[1])
    length = 0 if status == 304 else int(headers.get("content-length", 0))
    return Answer(status, headers, await reader.readexactly(length))
