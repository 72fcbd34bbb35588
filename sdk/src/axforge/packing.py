"""What is sent to the server: one file as it is, a folder as a tar.gz; never pickled weights."""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from axforge.errors import SpecError

CHUNK = 1 << 20
PICKLE_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".dill", ".h5", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
)
"""Endings of files that are, or may hold, pickles."""


@dataclass(frozen=True)
class Parcel:
    """An open, seekable file to be sent, and its name at the server."""

    name: str
    file: IO[bytes]

    def sha256(self) -> str:
        """Digest of all its bytes; leaves the file at its end."""
        digest = hashlib.sha256()
        self.file.seek(0)
        while chunk := self.file.read(CHUNK):
            digest.update(chunk)
        return digest.hexdigest()


@contextmanager
def parcel(path: Path) -> Iterator[Parcel]:
    """What is sent for `path`: itself, or a temporary tar.gz of a folder without its pickles.

    Raises `SpecError` when there is nothing at `path`, or nothing that may be sent.
    """
    if path.is_dir():
        with tempfile.TemporaryFile(suffix=".tar.gz") as file:
            _pack(path, file)
            file.seek(0)
            yield Parcel(name=_plain(f"{path.resolve().name or 'folder'}.tar.gz"), file=file)
    elif path.is_file():
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise SpecError(
                f"{path} may hold pickled weights, which are never sent; save the model as safetensors"
            )
        with path.open("rb") as file:
            yield Parcel(name=_plain(path.name), file=file)
    else:
        raise SpecError(f"there is no file or folder at {path}")


def _pack(folder: Path, file: IO[bytes]) -> None:
    """The same folder always gives the same bytes, so that the server stores it once.

    Links to files are followed (the hub's cache is made of them), links to folders are not.
    """
    members = [path for path in sorted(folder.rglob("*")) if _is_sent(path, folder)]
    if not members:
        raise SpecError(f"{folder} holds no file that can be sent (hidden and pickle files are left out)")
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in members:
            info = tarfile.TarInfo(path.relative_to(folder).as_posix())
            info.size = path.stat().st_size
            info.mode = 0o644
            with path.open("rb") as content:
                archive.addfile(info, content)


def _plain(name: str) -> str:
    """The name in letters that the server takes; its end, which tells the format, is kept."""
    return "x" * (not name[0].isalnum()) + re.sub(r"[^\w .+@()=,-]", "_", name)[-190:].lstrip(" .")


def _is_sent(path: Path, folder: Path) -> bool:
    inside = path.relative_to(folder)
    hidden = any(part.startswith(".") for part in inside.parts)
    return not hidden and path.suffix.lower() not in PICKLE_SUFFIXES and path.is_file()
