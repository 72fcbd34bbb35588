"""Which object URIs a job may read. The one rule, for the API that takes them and the worker that reads.

A URI never carries an endpoint: scheme and bucket must be one that the operator listed, letter for
letter, and endpoints and credentials come from the environment alone. There is no scheme for files
of the host or for HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

OWN_STORE = "store"
OWN_FOLDERS = frozenset({"sha256", "checkpoint"})  # of the service itself: other users' files lie there
LISTABLE_SCHEMES = frozenset({"s3", "gs", "az", "abfs"})
URI = re.compile(r"([a-z0-9]+)://([^/]*)/?(.*)")
SEGMENT = re.compile(r"(?!\.{1,2}$)[^\x00-\x20\x7f%\\?#*]+")


@dataclass(frozen=True)
class Location:
    """An object or a folder: `bucket` is the store's URL, None for the service's own store."""

    bucket: str | None
    key: str


def locate(uri: str, prefixes: Iterable[str]) -> Location | None:
    """Where the URI points, or None where jobs may not read.

    Args:
        prefixes: URIs that the operator allows, such as `s3://models/` or `gs://data/public`; what
            is below them is allowed too. `store://` is, but for the service's own folders.
    """
    parts = _parts(uri)
    if parts is None:
        return None
    scheme, bucket, key = parts
    if scheme == OWN_STORE:
        whole = [bucket, *key]
        allowed = bool(bucket) and SEGMENT.fullmatch(bucket) and bucket.casefold() not in OWN_FOLDERS
        return Location(None, "/".join(whole)) if allowed else None
    for prefix in prefixes:
        listed = _parts(prefix)
        if listed is not None and listed[:2] == (scheme, bucket) and key[: len(listed[2])] == listed[2]:
            return Location(f"{scheme}://{bucket}", "/".join(key)) if scheme in LISTABLE_SCHEMES else None
    return None


def _parts(uri: str) -> tuple[str, str, list[str]] | None:
    """Scheme, bucket and the segments of the key; None if a segment could be read in two ways."""
    match = URI.fullmatch(uri)
    if match is None:
        return None
    scheme, bucket, key = match.groups()
    key = key.removesuffix("/")
    segments = key.split("/") if key else []
    if not bucket or not all(SEGMENT.fullmatch(segment) for segment in segments):
        return None
    return scheme, bucket, segments
