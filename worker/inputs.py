"""Brings a job's sources onto this machine: uploads and object URIs become local paths."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from models.database import Database
from models.locations import locate
from models.settings import Settings
from models.spec import DatasetSource, JobSpec, ModelSource
from models.store import BlobNotFound, Store, StoreFull, blob_key, open_store
from models.tables import Upload
from worker.archives import Caps, check_unpacked_size, extract, is_archive
from worker.engine.errors import DiskFull, SourceError

GZIP_START = b"\x1f\x8b"

AnySource = TypeVar("AnySource", ModelSource, DatasetSource)


class SourceRefused(SourceError):
    """The source is one that this service does not let jobs read."""

    code = "source_refused"


@dataclass(frozen=True)
class Inputs:
    """Fetches sources below `folder`, once: what is there already is used again."""

    database: Database
    store: Store
    settings: Settings
    tenant: str
    folder: Path

    def resolve(self, spec: JobSpec) -> JobSpec:
        """The spec with every upload and URI replaced by a local path.

        Raises:
            SourceError: a source is missing, refused, broken or unsafe; the pointer names it.
            DiskFull: it does not fit on this machine.
        """
        return spec.model_copy(
            update={
                "base_model": self._local(spec.base_model, "base_model"),
                "dataset": self._local(spec.dataset, "dataset"),
            }
        )

    def _local(self, source: AnySource, field: str) -> AnySource:
        if source.upload is not None:
            upload, pointer = source.upload, f"/{field}/upload"
            path = self._once(field, pointer, lambda target: self._fetch_upload(upload, target, pointer))
        elif source.uri is not None:
            uri, pointer = source.uri, f"/{field}/uri"
            path = self._once(field, pointer, lambda target: self._fetch_uri(uri, target, pointer))
        elif source.path is not None and not self.settings.allow_paths:
            raise SourceRefused(
                "This service does not read files of its own machine.",
                remedy="Upload the files (POST /v1/uploads) and give the upload's id, or use the hub.",
                pointer=f"/{field}/path",
            )
        else:
            return source
        return source.model_copy(update={"upload": None, "uri": None, "path": str(path)})

    def _once(self, field: str, pointer: str, fetch: Callable[[Path], None]) -> Path:
        """Fetch into a folder that appears whole; a file or folder alone in it stands for it."""
        target = self.folder / field
        if not target.exists():
            partial = self.folder / f".{field}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            try:
                fetch(partial)
            except StoreFull as error:
                raise DiskFull(
                    "The worker's disk is full.",
                    remedy="Free space in the worker's data folder, then submit the job again.",
                    pointer=pointer,
                ) from error
            except BlobNotFound as error:
                raise SourceError(
                    "The object is not in the store.",
                    remedy="Check the name, or upload the files again.",
                    pointer=pointer,
                ) from error
            if not partial.is_dir() or not any(partial.iterdir()):
                raise SourceError(
                    "The archive holds no files.",
                    remedy="Upload an archive with the files of the model or data set.",
                    pointer=pointer,
                )
            self._refuse_gzip_bombs(partial, pointer)
            partial.rename(target)
        entries = list(target.iterdir())
        return entries[0] if len(entries) == 1 else target

    @property
    def _caps(self) -> Caps:
        settings = self.settings
        return Caps(settings.extracted_max_bytes, settings.extracted_max_files, settings.extracted_max_ratio)

    def _refuse_gzip_bombs(self, folder: Path, pointer: str) -> None:
        """The readers unpack such files by themselves, into memory, whatever their names say."""
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    zipped = file.read(len(GZIP_START)) == GZIP_START
                if zipped:
                    check_unpacked_size(path, self._caps, pointer=pointer)

    def _fetch_upload(self, upload_id: str, target: Path, pointer: str) -> None:
        with self.database.session() as session:
            upload = session.get(Upload, upload_id)
        if upload is None or upload.tenant != self.tenant:
            raise SourceError(
                f"There is no upload {upload_id}.",
                remedy="Upload the files (POST /v1/uploads) and give the id that is answered.",
                pointer=pointer,
            )
        self._fetch(self.store, blob_key(upload.sha256, upload.generation), upload.filename, target, pointer)

    def _fetch_uri(self, uri: str, target: Path, pointer: str) -> None:
        store, key = self._open(uri, pointer)
        if key and store.exists(key):
            self._fetch(store, key, PurePosixPath(key).name, target, pointer)
            return
        names = list(store.list(key))
        if not names:
            raise BlobNotFound(key)
        if len(names) > self.settings.extracted_max_files:
            raise SourceRefused(
                f"There are more than {self.settings.extracted_max_files} objects below the URI.",
                remedy="Name the folder of one model or data set.",
                pointer=pointer,
            )
        left = self.settings.extracted_max_bytes
        for name in names:
            left -= store.size(name)
            if left < 0:
                raise SourceRefused(
                    f"The objects below the URI have more than {self.settings.extracted_max_bytes} bytes.",
                    remedy="Name the folder of one model or data set.",
                    pointer=pointer,
                )
            store.download(name, target / _inside(name, key))

    def _open(self, uri: str, pointer: str) -> tuple[Store, str]:
        location = locate(uri, self.settings.uri_prefixes)
        if location is None:
            raise self._refused(pointer)
        return self.store if location.bucket is None else open_store(location.bucket), location.key

    def _refused(self, pointer: str) -> SourceRefused:
        allowed = ", ".join(self.settings.uri_prefixes) or "store:// objects only"
        return SourceRefused(
            "This service does not let jobs read that URI.",
            remedy=f"Use an upload, or one of what the operator allows: {allowed}.",
            pointer=pointer,
        )

    def _fetch(self, store: Store, key: str, filename: str, target: Path, pointer: str) -> None:
        name = _plain(filename)
        if not is_archive(name):
            store.download(key, target / name)
            return
        packed = self.folder / f".{name}.packed"
        try:
            store.download(key, packed)
            extract(packed, target, self._caps, name=name, pointer=pointer)
        finally:
            packed.unlink(missing_ok=True)


def _plain(filename: str) -> str:
    """A file name that names nothing but a file in the folder at hand; its ending is kept.

    ASCII only: file systems count bytes, and a name of 150 letters may have 600.
    """
    last = filename.replace("\\", "/").rsplit("/", 1)[-1]
    name = re.sub(r"[^\w.+-]", "_", last, flags=re.ASCII).lstrip(".")
    return name[-150:] or "file"


def _inside(name: str, key: str) -> str:
    return name.removeprefix(key).lstrip("/") or PurePosixPath(name).name
