"""Unpacking archives that strangers sent: nothing outside the folder, no links, no bombs."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from worker.engine.errors import DiskFull, SourceError

CHUNK_BYTES = 1024 * 1024
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
MAX_DEPTH = 32
MAX_NAME_BYTES = 1024
# Unpacked bytes that are nobody's bomb, however small the archive is: sparse tables compress well.
FREE_BYTES = 64 * 1024 * 1024
# Of a zip's directory for each file, and of a tar's headers between two files: what names need.
HEADER_BYTES = 64 * 1024
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others may ask for gigabytes of memory


class UnsafeArchive(SourceError):
    """The archive would write outside its folder, holds links or devices, or is too large unpacked."""

    code = "unsafe_archive"


class BrokenArchive(SourceError):
    """The archive cannot be read to its end."""

    code = "broken_archive"


@dataclass(frozen=True)
class Caps:
    """What one archive may unpack to: bytes, files and folders, and bytes for each byte of its own."""

    max_bytes: int
    max_files: int
    max_ratio: int = 100

    def bytes_of(self, packed: int) -> int:
        """The most that an archive of `packed` bytes may hold."""
        return min(self.max_bytes, max(FREE_BYTES, packed * self.max_ratio))


class _HeadersTooLarge(Exception):
    """Names and other descriptions take more than any honest archive needs."""


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str  # file | folder | other
    content: IO[bytes] | None


def is_archive(name: str) -> bool:
    """Whether a file of that name gets unpacked."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def extract(archive: Path, folder: Path, caps: Caps, *, name: str, pointer: str) -> None:
    """Unpack into a new folder. What it wrote before an error stays: the caller removes it.

    Args:
        name: The archive's own name, which tells its format.
        pointer: The field of the job that names it, for the error.

    Raises:
        UnsafeArchive, BrokenArchive, DiskFull.
    """
    folder.mkdir(parents=True)
    with _told(pointer):
        members = _zip_members(archive, caps) if name.lower().endswith(".zip") else _tar_members(archive)
        _extract(members, folder, caps, archive.stat().st_size, pointer)


def check_unpacked_size(file: Path, caps: Caps, *, pointer: str) -> None:
    """Refuse a gzip file that would unpack to more than the caps allow; nothing is written.

    Raises:
        UnsafeArchive, BrokenArchive, DiskFull.
    """
    most = caps.bytes_of(file.stat().st_size)
    with _told(pointer), gzip.open(file) as unpacked:
        left = most
        while chunk := unpacked.read(CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise _unsafe(f"it unpacks to more than {most} bytes", pointer)


@contextmanager
def _told(pointer: str) -> Iterator[None]:
    """Everything that damaged bytes can make the readers raise, as the errors of this module."""
    try:
        yield
    except _HeadersTooLarge as error:
        raise _unsafe("its names and headers are too large", pointer) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                "The worker's disk is full.",
                remedy="Free space in the worker's data folder, or use a smaller upload.",
                pointer=pointer,
            ) from error
        raise _broken(pointer) from error  # gzip and bz2 tell of damage in this way
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        ValueError,  # numbers and times in headers that are none
        OverflowError,
        RuntimeError,  # a zip file with a password
        NotImplementedError,
    ) as error:
        raise _broken(pointer) from error


def _extract(members: Iterator[_Member], folder: Path, caps: Caps, packed: int, pointer: str) -> None:
    entries, most = 0, caps.bytes_of(packed)
    left = most
    for member in members:
        target = folder / _safe_name(member, pointer)
        entries += 1
        if entries > caps.max_files:
            raise _unsafe(f"it holds more than {caps.max_files} files and folders", pointer)
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            continue
        if target.exists():
            raise _unsafe(f"it holds {member.name[:100]!r} twice", pointer)
        target.parent.mkdir(parents=True, exist_ok=True)
        left -= _copy(member.content, target, left, most, pointer)


def _copy(source: IO[bytes] | None, target: Path, left: int, most: int, pointer: str) -> int:
    """Counts what really comes out: the sizes that an archive claims may be lies."""
    written = 0
    with target.open("xb") as file:
        while source is not None and (chunk := source.read(CHUNK_BYTES)):
            written += len(chunk)
            if written > left:
                raise _unsafe(f"it unpacks to more than {most} bytes", pointer)
            file.write(chunk)
    return written


def _safe_name(member: _Member, pointer: str) -> PurePosixPath:
    name = member.name
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name:
        raise _unsafe(f"{name[:100]!r} would be written outside of its folder", pointer)
    if not name.isprintable():  # half surrogates too: such a name can be neither shown nor stored
        raise _unsafe(f"{name[:100]!r} is no name of printable characters", pointer)
    if len(path.parts) > MAX_DEPTH or len(name.encode()) > MAX_NAME_BYTES:
        raise _unsafe(f"{name[:100]!r}... is too long or too deep", pointer)
    if member.kind == "other":
        raise _unsafe(f"{name[:100]!r} is a link or a device", pointer)
    return path


def _tar_members(archive: Path) -> Iterator[_Member]:
    # As a stream: no index is built, so a bomb of headers is met one by one.
    with _unpacked(archive) as raw:
        headers = _Headers(raw)
        with tarfile.open(fileobj=cast(IO[bytes], headers), mode="r|") as tar:
            for info in tar:
                if info.isreg() and not info.issparse():
                    headers.allow(info.size)
                    yield _Member(info.name, "file", tar.extractfile(info))
                else:
                    yield _Member(info.name, "folder" if info.isdir() else "other", None)
                headers.allow(0)


@contextmanager
def _unpacked(archive: Path) -> Iterator[IO[bytes]]:
    with archive.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        if start.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield cast(IO[bytes], unzipped)
        elif start.startswith(b"BZh"):
            with bz2.open(file) as opened:
                yield opened
        elif start == b"\xfd7zXZ\0":
            with lzma.open(file) as decoded:
                yield decoded
        else:
            yield file


class _Headers:
    """A tar as it is read, which may hold only so much between two files.

    tarfile reads long names, extended headers and maps of sparse files into memory whole.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._left = HEADER_BYTES

    def allow(self, size: int) -> None:
        """The content of a file of `size` bytes, and then headers again."""
        self._left = size + HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _HeadersTooLarge
        return data


def _zip_members(archive: Path, caps: Caps) -> Iterator[_Member]:
    with (
        _Directory(archive, caps.max_files * MAX_NAME_BYTES + HEADER_BYTES) as file,
        zipfile.ZipFile(file) as opened,
    ):
        for info in opened.infolist():
            file_type = (info.external_attr >> 16) & 0o170000
            if file_type not in (0, 0o100000, 0o040000):
                yield _Member(info.filename, "other", None)
            elif info.is_dir():
                yield _Member(info.filename, "folder", None)
            elif info.compress_type not in ZIP_METHODS:
                raise zipfile.BadZipFile("a method of compression that is not taken")
            else:
                with opened.open(info) as content:
                    yield _Member(info.filename, "file", content)


class _Directory(io.FileIO):
    """A zip file whose directory, which zipfile reads into memory whole, may have so many bytes."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._most:
            raise _HeadersTooLarge
        return super().read(size)


def _unsafe(why: str, pointer: str) -> UnsafeArchive:
    return UnsafeArchive(
        f"The archive is refused: {why}.",
        remedy="Pack only plain files with relative names (tar.gz or zip), within the size limits.",
        pointer=pointer,
    )


def _broken(pointer: str) -> BrokenArchive:
    return BrokenArchive(
        "The archive cannot be read: it is damaged, cut off, encrypted, or of another format than its name.",
        remedy="Pack it again as tar.gz or zip, test it, and upload it under a name with that ending.",
        pointer=pointer,
    )
