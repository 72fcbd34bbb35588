"""Files by content, in an object store or a folder. Streamed: no file is held in memory whole."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, MemoryStore, from_url

if TYPE_CHECKING:  # not there at run time
    from obstore.store import ClientConfig, RetryConfig

CHUNK_BYTES = 1024 * 1024
SPOOL_PREFIX = "incoming-"
STALE_SECONDS = 24 * 3600.0  # no upload takes so long; what is older was left behind
PROBED = "health"  # nothing lies below it, so that a probe lists nothing
# A request may take long, as long as bytes come. Reading goes on where it was cut off; in all, a store
# that answers nothing but errors is given up after about a quarter of a minute.
CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=10),  # the lookup of the name included
    "timeout": timedelta(minutes=5),
    "read_timeout": timedelta(seconds=30),
}
RETRY: RetryConfig = {
    "max_retries": 8,
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
    "retry_timeout": timedelta(minutes=4),
}
CONTENT_KEY = re.compile(r"(?:.*/)?([0-9a-f]{64})(?:\.\d+)?")  # see `Blob.key`
PART_BYTES = 5 * CHUNK_BYTES  # the least that S3 takes; two are in memory at a time


class StoreError(Exception):
    """The store did not do what was asked; another try may go better."""


class BlobNotFound(StoreError):
    """There is no object of that key."""


class BlobDamaged(StoreError):
    """The object's bytes are not those that its key or size promise."""


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
    generation: int = 0

    @property
    def key(self) -> str:
        """Where it lies in the store. Bytes that were given up once get another key (`models.blobs`)."""
        return f"{self.folder}/{self.sha256}" + (f".{self.generation}" if self.generation else "")


Reserve = Callable[[Blob], Blob]
"""Told what is about to be stored; gives it back with the generation to store it as."""


def as_it_is(blob: Blob) -> Blob:
    """Reserves nothing."""
    return blob


class Store(Protocol):
    """Objects by key. A key that `put_file` made is `sha256/<digest>`: its content never changes."""

    def put_file(self, path: Path, *, folder: str = "sha256", reserve: Reserve = as_it_is) -> Blob:
        """Store a local file as `folder/<digest>` unless it is there already.

        Interrupted, it leaves nothing visible. Raises BlobDamaged where not all of it arrived.
        """

    def put_stream(
        self, chunks: Iterable[bytes], *, max_bytes: int | None = None, reserve: Reserve = as_it_is
    ) -> Blob:
        """Store what comes, at most `max_bytes`.

        Raises:
            BlobTooLarge: it is longer; nothing was kept.
        """

    def open_range(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `end`, in pieces. Raises BlobNotFound."""

    def download(self, key: str, path: Path) -> None:
        """Write the object to a local file, which appears whole or not at all.

        Raises:
            BlobNotFound: there is no object of that key.
            BlobDamaged: what came is shorter than the object, or its digest is not the key's.
        """

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""

    def size(self, key: str) -> int:
        """Bytes of the object. Raises BlobNotFound."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, which ends at a `/` of the keys."""

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""

    def presigned(self, key: str, seconds: float) -> str | None:
        """An address that gives the object to whoever has it, for so long; None if the store has no such."""

    def probe(self) -> None:
        """Raise StoreError unless the store answers and its bucket or folder is there."""

    def drop_partial_writes(self, age_seconds: float = STALE_SECONDS) -> int:
        """Remove what killed processes left half written so long ago. Returns how many files.

        A bucket shows no such thing; there a life-cycle rule aborts stale multipart uploads.
        """


def blob_key(sha256: str, generation: int = 0) -> str:
    """The key of the object with that content."""
    return Blob(sha256, 0, generation=generation).key


def open_store(url: str, *, spool: Path | None = None, public_endpoint: str | None = None) -> Store:
    """The store at a URL: `file:///folder`, `s3://bucket/prefix`, `gs://`, `az://`, `memory://`.

    Credentials and endpoints come from the environment, as the vendor's own tools read them
    (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).

    Args:
        spool: Folder for uploads under way whose digest is not known yet; default: the system's.
        public_endpoint: Address of an S3 store as clients reach it, for presigned addresses, where
            that is not the one that this process uses.
    """
    signing = None if public_endpoint is None else _backend(url, endpoint=public_endpoint)
    return ObjectStore(_backend(url), spool, signing, folder=_folder(url))


class ObjectStore:
    """`Store` over any backend of obstore."""

    def __init__(
        self, backend: Any, spool: Path | None = None, signing: Any = None, *, folder: Path | None = None
    ) -> None:
        self._backend = backend
        self._spool = spool
        self._signing = signing or backend
        self._folder = folder

    def put_file(self, path: Path, *, folder: str = "sha256", reserve: Reserve = as_it_is) -> Blob:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        blob = reserve(Blob(digest, path.stat().st_size, folder))
        if not self._holds(blob):
            with _translated(), path.open("rb") as file:
                # Two writers of one key write the same bytes, so the last one may win. The stream
                # is checked as it goes: an exception in it aborts the upload.
                obstore.put(
                    self._backend, blob.key, _verified(file, blob), chunk_size=PART_BYTES, max_concurrency=2
                )
            with suppress(BlobNotFound):  # given up meanwhile (`models.blobs`): nobody refers to it
                if self.size(blob.key) != blob.size:
                    raise BlobDamaged("the store did not keep all bytes of the file")
        return blob

    def put_stream(
        self, chunks: Iterable[bytes], *, max_bytes: int | None = None, reserve: Reserve = as_it_is
    ) -> Blob:
        if self._spool is not None:
            self._spool.mkdir(parents=True, exist_ok=True)
        with _translated(), tempfile.NamedTemporaryFile(dir=self._spool, prefix=SPOOL_PREFIX) as file:
            written = 0
            for chunk in chunks:
                written += len(chunk)
                if max_bytes is not None and written > max_bytes:
                    raise BlobTooLarge(f"longer than {max_bytes} bytes")
                file.write(chunk)
            file.flush()
            return self.put_file(Path(file.name), reserve=reserve)

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
            pieces = _whole(self.open_range(key), key, self.size(key))
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

    def drop_partial_writes(self, age_seconds: float = STALE_SECONDS) -> int:
        dropped = 0 if self._spool is None else _drop_old(self._spool.glob(f"{SPOOL_PREFIX}*"), age_seconds)
        if isinstance(self._backend, LocalStore) and self._backend.prefix is not None:
            # LocalStore writes to `<name>#<n>` and renames that when it is whole.
            dropped += _drop_old(Path(self._backend.prefix).rglob("*#[0-9]*"), age_seconds)
        return dropped

    def presigned(self, key: str, seconds: float) -> str | None:
        if isinstance(self._signing, (LocalStore, MemoryStore)):
            return None
        with _translated():
            return str(obstore.sign(self._signing, "GET", key, timedelta(seconds=seconds)))

    def probe(self) -> None:
        # A missing bucket and a missing object look alike, but only an existing bucket can be listed.
        with _translated():
            next(iter(obstore.list(self._backend, PROBED, chunk_size=1)), None)
        if self._folder is not None and not self._folder.is_dir():
            raise BlobNotFound("the store's folder is not there")

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


def _drop_old(paths: Iterable[Path], age_seconds: float) -> int:
    dropped = 0
    for path in list(paths):
        with suppress(FileNotFoundError):  # its writer, or another sweep, was faster
            if path.is_file() and time.time() - path.stat().st_mtime > age_seconds:
                path.unlink()
                dropped += 1
    return dropped


def _verified(file: Any, blob: Blob) -> Iterator[bytes]:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != blob.sha256:
        raise StoreError("the file changed while it was stored")


def _whole(pieces: Iterator[bytes], key: str, size: int) -> Iterator[bytes]:
    """The pieces, checked as they go against the size and, where the key names a digest, that."""
    digest, left = hashlib.sha256(), size
    for piece in pieces:
        digest.update(piece)
        left -= len(piece)
        yield piece
    promised = CONTENT_KEY.fullmatch(key)
    if left or (promised is not None and digest.hexdigest() != promised[1]):
        raise BlobDamaged("the object's bytes are not those that were stored")


def _pieces(result: Any) -> Iterator[bytes]:
    with _translated():
        for piece in result.stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(piece)


def _folder(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _backend(url: str, *, endpoint: str | None = None) -> Any:
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore()
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)), mkdir=True)
    if parts.scheme != "s3":
        return from_url(url, client_options=CLIENT, retry_config=RETRY)
    chosen: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
    options = CLIENT.copy()
    if (endpoint or os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://"):
        options["allow_http"] = True
    return from_url(url, client_options=options, retry_config=RETRY, **chosen)
