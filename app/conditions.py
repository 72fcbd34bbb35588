"""Conditional and partial requests: entity tags, byte ranges, `Prefer: wait` (RFC 9110, RFC 7240)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.problems import RangeNotSatisfiable

ONE_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE | re.ASCII)
WAIT = re.compile(r"(?:^|[,\s])wait\s*=\s*\"?(\d{1,9})\"?", re.IGNORECASE)
ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')


@dataclass(frozen=True)
class ByteRange:
    """Bytes from `start` up to, not including, `end`."""

    start: int
    end: int


def none_match(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` lets the answer through; False means 304. The comparison is weak."""
    if header is None:
        return True
    return header.strip() != "*" and etag not in ENTITY_TAG.findall(header)


def requested_range(header: str | None, if_range: str | None, etag: str, size: int) -> ByteRange | None:
    """The one range that is asked for; None means the whole file.

    Several ranges at once, other units and a stale `If-Range` are answered with the whole file.

    Raises:
        RangeNotSatisfiable: it begins behind the end of the file.
    """
    match = ONE_RANGE.fullmatch(header.strip()) if header else None
    if match is None or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        raise RangeNotSatisfiable(
            f"The file has {size} bytes.",
            remedy="Ask for a range inside the file.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return ByteRange(start, end)


def preferred_wait(header: str | None, longest: float) -> float:
    """Seconds that the client would like the answer to be held back, at most `longest`."""
    match = WAIT.search(header) if header else None
    return min(float(match.group(1)), longest) if match else 0.0
