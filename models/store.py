"""Files by content, in an object store or a folder. Streamed: no file is held in memory whole."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, MemoryStore, from_url

CHUNK_BYTES = 1024 * 1024
PART_BYTES = 5 * CHUNK_BYTES  # the least that S3 takes; two are in memory at a time


class StoreError(Exception):
    """The store did not do what was asked; another try may go better."""


class BlobNotFound(StoreError):
    """There is no object of that key."""


class StoreFull(StoreError):
    """There is no room left."""


class BlobTooLarge(StoreError):
    """The stream is longer than allowed; nothing of it was kept."""


@dataclass(frozen=True)
class Blob:
    """A stored file: its content's digest and its size in bytes."""

    sha256: str
    size: int
    folder: str = "sha256"

    @property
    def key(self) -> str:
        """Where it lies in the store."""
        return f"{self.folder}/{self.sha256}"


class Store(Protocol):
    """Objects by key. A key that `put_file` made is `sha256/<digest>`: its content never changes."""

    def put_file(self, path: Path, *, folder: str = "sha256") -> Blob:
        """Store a local file as `folder/<digest>` unless it is there already.

        Interrupted, it leaves nothing visible.
        """

    def put_stream(self, chunks: Iterable[bytes], *, max_bytes: int | None = None) -> Blob:
        """Store what comes, at most `max_bytes`.

        Raises:
            BlobTooLarge: it is longer; nothing was kept.
        """

    def open_range(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `end`, in pieces. Raises BlobNotFound."""

    def download(self, key: str, path: Path) -> None:
        """Write the object to a local file, which appears whole or not at all."""

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""

    def size(self, key: str) -> int:
        """Bytes of the object. Raises BlobNotFound."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, which ends at a `/` of the keys."""

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""


def blob_key(sha256: str) -> str:
    """The key of the object with that content."""
    return f"sha256/{sha256}"


def open_store(url: str, *, spool: Path | None = None) -> Store:
    """The store at a URL: `file:///folder`, `s3://bucket/prefix`, `gs://`, `az://`, `memory://`.

    Credentials and endpoints come from the environment, as the vendor's own tools read them
    (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).

    Args:
        spool: Folder for uploads under way whose digest is not known yet; default: the system's.
    """
    return ObjectStore(_backend(url), spool)


class ObjectStore:
    """`Store` over any backend of obstore."""

    def __init__(self, backend: Any, spool: Path | None = None) -> None:
        self._backend = backend
        self._spool = spool

    def put_file(self, path: Path, *, folder: str = "sha256") -> Blob:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        blob = Blob(digest, path.stat().st_size, folder)
        if not self._holds(blob):
            with _translated(), path.open("rb") as file:
                # Two writers of one key write the same bytes, so the last one may win. The stream
                # is checked as it goes: an exception in it aborts the upload.
                obstore.put(
                    self._backend, blob.key, _verified(file, blob), chunk_size=PART_BYTES, max_concurrency=2
                )
        return blob

    def put_stream(self, chunks: Iterable[bytes], *, max_bytes: int | None = None) -> Blob:
        if self._spool is not None:
            self._spool.mkdir(parents=True, exist_ok=True)
        with _translated(), tempfile.NamedTemporaryFile(dir=self._spool, prefix="incoming-") as file:
            written = 0
            for chunk in chunks:
                written += len(chunk)
                if max_bytes is not None and written > max_bytes:
                    raise BlobTooLarge(f"longer than {max_bytes} bytes")
                file.write(chunk)
            file.flush()
            return self.put_file(Path(file.name))

    def open_range(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        size = self.size(key)
        stop = size if end is None else min(end, size)
        if start >= stop:
            return iter(())
        with _translated():
            result = obstore.get(self._backend, key, options={"range": (start, stop)})
        return _pieces(result)

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _translated():
            pieces = self.open_range(key)
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".download-")
            partial = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.writelines(pieces)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except BlobNotFound:
            return False
        return True

    def size(self, key: str) -> int:
        with _translated():
            return int(obstore.head(self._backend, key)["size"])

    def list(self, prefix: str) -> Iterator[str]:
        with _translated():
            for batch in obstore.list(self._backend, prefix or None):
                for meta in batch:
                    yield str(meta["path"])

    def delete(self, key: str) -> None:
        try:
            with _translated():
                obstore.delete(self._backend, key)
        except BlobNotFound:
            return

    def _holds(self, blob: Blob) -> bool:
        try:
            return self.size(blob.key) == blob.size
        except BlobNotFound:
            return False


class _translated:
    """Turns the errors of obstore and the file system into those of this module."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (NotFoundError, FileNotFoundError)):
            raise BlobNotFound("no such object") from error
        if _is_full(error):
            raise StoreFull("no room left in the store") from error
        if isinstance(error, BaseError):
            raise StoreError(f"the object store failed: {type(error).__name__}") from error


def _is_full(error: BaseException | None) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, BaseError) and "os error 28" in str(error).lower()


def _verified(file: Any, blob: Blob) -> Iterator[bytes]:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != blob.sha256:
        raise StoreError("the file changed while it was stored")


def _pieces(result: Any) -> Iterator[bytes]:
    with _translated():
        for piece in result.stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(piece)


def _backend(url: str) -> Any:
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore()
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)), mkdir=True)
    if parts.scheme == "s3" and os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        return from_url(url, client_options={"allow_http": True})
    return from_url(url)
