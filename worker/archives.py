"""Unpacking archives that strangers sent: nothing outside the folder, no links, no bombs."""

from __future__ import annotations

import errno
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from worker.engine.errors import DiskFull, SourceError

CHUNK_BYTES = 1024 * 1024
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


class UnsafeArchive(SourceError):
    """The archive would write outside its folder, holds links or devices, or is too large unpacked."""

    code = "unsafe_archive"


class BrokenArchive(SourceError):
    """The archive cannot be read to its end."""

    code = "broken_archive"


@dataclass(frozen=True)
class Caps:
    """What one archive may unpack to."""

    max_bytes: int
    max_files: int


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
    members = _zip_members if name.lower().endswith(".zip") else _tar_members
    try:
        _extract(members(archive), folder, caps, pointer)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise _broken(pointer) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                "The worker's disk is full.",
                remedy="Free space in the worker's data folder, or use a smaller upload.",
                pointer=pointer,
            ) from error
        raise _broken(pointer) from error  # gzip, bz2 and lzma tell of damage in this way
    except RuntimeError as error:  # a zip file with a password
        raise _broken(pointer) from error


def _extract(members: Iterator[_Member], folder: Path, caps: Caps, pointer: str) -> None:
    files, left = 0, caps.max_bytes
    for member in members:
        target = folder / _safe_name(member, pointer)
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            continue
        files += 1
        if files > caps.max_files:
            raise _unsafe(f"it holds more than {caps.max_files} files", pointer)
        if target.exists():
            raise _unsafe(f"it holds {member.name[:100]!r} twice", pointer)
        target.parent.mkdir(parents=True, exist_ok=True)
        left -= _copy(member.content, target, left, caps, pointer)


def _copy(source: IO[bytes] | None, target: Path, left: int, caps: Caps, pointer: str) -> int:
    """Counts what really comes out: the sizes that an archive claims may be lies."""
    written = 0
    with target.open("xb") as file:
        while source is not None and (chunk := source.read(CHUNK_BYTES)):
            written += len(chunk)
            if written > left:
                raise _unsafe(f"it unpacks to more than {caps.max_bytes} bytes", pointer)
            file.write(chunk)
    return written


def _safe_name(member: _Member, pointer: str) -> PurePosixPath:
    name = member.name
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name:
        raise _unsafe(f"{name[:100]!r} would be written outside of its folder", pointer)
    if member.kind == "other":
        raise _unsafe(f"{name[:100]!r} is a link or a device", pointer)
    return path


def _tar_members(archive: Path) -> Iterator[_Member]:
    # As a stream: no index is built, so a bomb of headers is met one by one.
    with tarfile.open(archive, "r|*") as tar:
        for info in tar:
            if info.isfile():
                yield _Member(info.name, "file", tar.extractfile(info))
            else:
                yield _Member(info.name, "folder" if info.isdir() else "other", None)


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            file_type = (info.external_attr >> 16) & 0o170000
            if file_type not in (0, 0o100000, 0o040000):
                yield _Member(info.filename, "other", None)
            elif info.is_dir():
                yield _Member(info.filename, "folder", None)
            else:
                with opened.open(info) as content:
                    yield _Member(info.filename, "file", content)


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
