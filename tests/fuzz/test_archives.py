"""Whatever an archive holds, it is unpacked into its folder or refused with a typed error."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import TRIED, bounded
from tests.fuzz.mutations import spoiled_bytes
from worker.archives import Caps, extract
from worker.engine.errors import EngineError

CAPS = Caps(max_bytes=200_000, max_files=20)
FILES = {"config.json": b"{}", "data/train.csv": b"text,label\n" * 50, "link": b""}


def tar_of(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in FILES.items():
            info = tarfile.TarInfo(f"{'long/' * 3}{name}" if form == tarfile.PAX_FORMAT else name)
            info.size = len(content)
            if name == "link":
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as opened:
        for name, content in FILES.items():
            opened.writestr(name, content)
    return buffer.getvalue()


TARS = [tar_of(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
ZIPS = [zip_of(method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives")


def unpack(folder: Path, name: str, content: bytes) -> None:
    TRIED["archives"] += 1
    around = folder / "around"
    shutil.rmtree(around, ignore_errors=True)
    around.mkdir()
    archive, target = around / name, around / "deep" / "target"
    archive.write_bytes(content)
    refused = None
    try:
        extract(archive, target, CAPS, name=name, pointer="/dataset/upload")
    except EngineError as error:
        refused = error
    assert refused is None or refused.code in {"unsafe_archive", "broken_archive"}
    assert str(folder) not in str(refused)
    found = list(around.rglob("*"))
    assert not [path for path in found if path.is_symlink()]
    outside = {path for path in found if not path.is_relative_to(target)}
    assert outside <= {archive, around / "deep"}
    assert sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) <= CAPS.max_bytes + 2**20


@bounded(150)
@given(content=st.one_of(*map(spoiled_bytes, TARS)))
def test_spoiled_tar(folder: Path, content: bytes) -> None:
    unpack(folder, "a.tar", content)


@bounded(100)
@given(content=st.one_of(*map(spoiled_bytes, TARS)))
def test_spoiled_tar_in_sound_gzip(folder: Path, content: bytes) -> None:
    unpack(folder, "a.tar.gz", gzip.compress(content, 1))


@bounded(50)
@given(content=st.one_of(*(spoiled_bytes(gzip.compress(tar)) for tar in TARS)))
def test_spoiled_gzip(folder: Path, content: bytes) -> None:
    unpack(folder, "a.tar.gz", content)


@bounded(150)
@given(content=st.one_of(*map(spoiled_bytes, ZIPS)))
def test_spoiled_zip(folder: Path, content: bytes) -> None:
    unpack(folder, "a.zip", content)
