from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from models.base import new_id
from models.database import Database
from models.settings import Settings
from models.spec import JobSpec
from models.store import Store, open_store
from models.tables import Base, Upload, UploadKind
from tests.worker.jobs import SPEC
from worker import archives
from worker.archives import BrokenArchive, Caps, UnsafeArchive, extract
from worker.engine.errors import EngineError
from worker.inputs import Inputs

CAPS = Caps(max_bytes=1_000_000, max_files=10)


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return buffer.getvalue()


def zip_with_method(name: str, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = method
    return info


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def pax_bomb() -> bytes:
    """A tar whose only header is a description of a megabyte."""
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x" * 1_000_000}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    return buffer.getvalue()


def zip_with_a_long_directory() -> bytes:
    entry = zipfile.ZipInfo("a")
    entry.comment = b"x" * 60_000
    others = [zipfile.ZipInfo(str(number)) for number in range(2)]
    for other in others:
        other.comment = entry.comment
    return zip_of((entry, b""), *((other, b"") for other in others))


UNSAFE = {
    "tar folders": ("a.tgz", tar_of(*((member(str(n), tarfile.DIRTYPE), b"") for n in range(11)))),
    "tar deep": ("a.tgz", tar_of((member("a/" * 40 + "b"), b"x"))),
    "tar long name": ("a.tgz", tar_of((member("a" * 1100), b"x"))),
    "tar name that is no text": ("a.tgz", tar_of((member("a\udcff"), b"x"))),
    "tar name over two lines": ("a.tgz", tar_of((member("a\nb"), b"x"))),
    "tar headers": ("a.tgz", pax_bomb()),
    "zip directory": ("a.zip", zip_with_a_long_directory()),
    "tar parent": ("a.tar.gz", tar_of((member("../evil"), b"x"))),
    "tar deep parent": ("a.tar.gz", tar_of((member("a/../../evil"), b"x"))),
    "tar absolute": ("a.tar.gz", tar_of((member("/tmp/evil"), b"x"))),
    "tar symlink": ("a.tgz", tar_of((member("link", tarfile.SYMTYPE, "/etc"), b""))),
    "tar hard link": ("a.tgz", tar_of((member("link", tarfile.LNKTYPE, "/etc/passwd"), b""))),
    "tar device": ("a.tgz", tar_of((member("dev", tarfile.CHRTYPE), b""))),
    "tar fifo": ("a.tgz", tar_of((member("pipe", tarfile.FIFOTYPE), b""))),
    "tar twice": ("a.tgz", tar_of((member("a"), b"x"), (member("a"), b"y"))),
    "tar bomb": ("a.tgz", tar_of((member("a"), bytes(1_000_001)))),
    "tar bomb in parts": ("a.tgz", tar_of((member("a"), bytes(600_000)), (member("b"), bytes(600_000)))),
    "tar many": ("a.tgz", tar_of(*((member(str(n)), b"") for n in range(11)))),
    "zip parent": ("a.zip", zip_of(("../evil", b"x"))),
    "zip backslashes": ("a.zip", zip_of(("..\\evil", b"x"))),
    "zip drive": ("a.zip", zip_of(("C:/evil", b"x"))),
    "zip link": ("a.zip", zip_of((zip_link("link"), b"/etc"))),
    "zip bomb": ("a.zip", zip_of(("a", bytes(1_000_001)))),
    "zip many": ("a.zip", zip_of(*((str(n), b"") for n in range(11)))),
}
WHOLE = tar_of((member("a"), bytes(range(256)) * 1000))
BROKEN = {
    "not a tar": ("a.tar.gz", b"this is no archive"),
    "empty": ("a.tar", b""),
    "cut off": ("a.tar.gz", WHOLE[: len(WHOLE) // 2]),
    "not a zip": ("a.zip", b"PK nothing"),
    "cut off xz": ("a.tar.xz", lzma.compress(gzip.decompress(WHOLE))[:200]),
    "damaged xz": ("a.tar.xz", b"\xfd7zXZ\0" + bytes(100)),
    "zip method": ("a.zip", zip_of((zip_with_method("a", zipfile.ZIP_LZMA), b"hello" * 100))),
    "damaged zip": ("a.zip", zip_of(("a", b"hello" * 100)).replace(b"hello", b"hallo", 1)[:-30]),
}


@pytest.mark.parametrize(("name", "content"), UNSAFE.values(), ids=UNSAFE.keys())
def test_unsafe_archives_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsafeArchive) as caught:
        extract(tmp_path / name, tmp_path / "in" / "side", CAPS, name=name, pointer="/dataset/upload")
    assert caught.value.pointer == "/dataset/upload"
    assert str(tmp_path) not in str(caught.value)
    assert not list(tmp_path.rglob("evil"))
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize(("name", "content"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_archives_are_told_as_such(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BrokenArchive):
        extract(tmp_path / name, tmp_path / "out", CAPS, name=name, pointer="/dataset/upload")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tar.gz", tar_of((member("f", tarfile.DIRTYPE), b""), (member("f/a.txt"), b"x"))),
        ("A.ZIP", zip_of(("f/", b""), ("f/a.txt", b"x"))),
    ],
)
def test_good_archives_are_unpacked(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    extract(tmp_path / name, tmp_path / "out", CAPS, name=name, pointer="")
    assert (tmp_path / "out" / "f" / "a.txt").read_bytes() == b"x"


def test_ratio_is_judged_beyond_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 1000)
    content = tar_of((member("a"), bytes(500_000)))
    (tmp_path / "a.tgz").write_bytes(content)
    caps = Caps(max_bytes=1_000_000, max_files=10, max_ratio=100)
    assert len(content) * 100 < 500_000
    with pytest.raises(UnsafeArchive, match="more than"):
        extract(tmp_path / "a.tgz", tmp_path / "out", caps, name="a.tgz", pointer="")
    wide = Caps(max_bytes=1_000_000, max_files=10, max_ratio=1000)
    extract(tmp_path / "a.tgz", tmp_path / "wide", wide, name="a.tgz", pointer="")


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    settings = Settings.model_validate(
        {"data_dir": tmp_path, "extracted_max_files": 10, "uri_prefixes": ["s3://allowed/"]}
    )
    database = Database(settings.database)
    Base.metadata.create_all(database.engine)
    store = open_store(settings.store)
    return Inputs(database, store, settings, "default", tmp_path / "work" / "inputs")


@pytest.fixture
def upload(inputs: Inputs) -> Callable[..., str]:
    def add(filename: str, content: bytes, tenant: str = "default") -> str:
        blob = inputs.store.put_stream([content])
        with inputs.database.transaction() as session:
            row = Upload(
                id=new_id("upl"),
                tenant=tenant,
                kind=UploadKind.DATASET,
                filename=filename,
                size=blob.size,
                sha256=blob.sha256,
                media_type="application/octet-stream",
            )
            session.add(row)
            return row.id

    return add


def spec_with(**changes: object) -> JobSpec:
    hub = {"base_model": {"hub": "a/b"}, "dataset": {"hub": "c/d"}}
    return JobSpec.model_validate(SPEC | hub | changes)


def test_hub_sources_stay_as_they_are(inputs: Inputs) -> None:
    assert inputs.resolve(spec_with()) == spec_with()


def test_a_file_and_an_archive_become_paths(inputs: Inputs, upload: Callable[..., str]) -> None:
    model = upload("model.tar.gz", tar_of((member("m/config.json"), b"{}"), (member("m/a.bin"), b"x")))
    data = upload("../../my data.csv", b"text,label\n")
    spec = spec_with(base_model={"upload": model}, dataset={"upload": data, "train": "x"})
    resolved = inputs.resolve(spec)
    assert resolved.base_model.path is not None
    assert (Path(resolved.base_model.path) / "config.json").read_bytes() == b"{}"
    assert resolved.dataset.path is not None
    assert Path(resolved.dataset.path).name == "my_data.csv"
    assert Path(resolved.dataset.path).read_bytes() == b"text,label\n"
    assert (resolved.dataset.upload, resolved.dataset.train) == (None, "x")
    assert inputs.resolve(spec) == resolved  # a second attempt uses what is there
    assert not [path for path in inputs.folder.iterdir() if path.name.startswith(".")]


def refused(inputs: Inputs, **changes: object) -> EngineError:
    with pytest.raises(EngineError) as caught:
        inputs.resolve(spec_with(**changes))
    assert str(inputs.folder) not in str(caught.value)
    return caught.value


def test_uploads_of_others_are_not_there(inputs: Inputs, upload: Callable[..., str]) -> None:
    error = refused(inputs, dataset={"upload": upload("a.csv", b"x", tenant="other")})
    assert (error.code, error.pointer) == ("source_unavailable", "/dataset/upload")


def test_an_unsafe_upload_can_be_fixed_and_tried_again(inputs: Inputs, upload: Callable[..., str]) -> None:
    error = refused(inputs, base_model={"upload": upload("m.tar.gz", UNSAFE["tar parent"][1])})
    assert (error.code, error.pointer) == ("unsafe_archive", "/base_model/upload")
    good = upload("m.tar.gz", tar_of((member("config.json"), b"{}"), (member("b"), b"")))
    assert inputs.resolve(spec_with(base_model={"upload": good})).base_model.path is not None


def test_an_archive_without_files_is_refused(inputs: Inputs, upload: Callable[..., str]) -> None:
    error = refused(inputs, dataset={"upload": upload("a.zip", zip_of())})
    assert error.code == "source_unavailable"


@pytest.mark.parametrize(
    "uri",
    [
        "store://sha256/" + "0" * 64,
        "store://checkpoint/job_1",
        "store://a/../sha256",
        "store:///",
        "s3://other/model",
        "s3://allowed/../other/model",
    ],
)
def test_uris_out_of_bounds_are_refused(inputs: Inputs, uri: str) -> None:
    error = refused(inputs, dataset={"uri": uri})
    assert (error.code, error.pointer) == ("source_refused", "/dataset/uri")


def test_paths_are_for_embedded_servers(inputs: Inputs) -> None:
    assert refused(inputs, dataset={"path": "/etc"}).pointer == "/dataset/path"


def put(store: Store, root: Path, key: str, content: bytes) -> None:
    path = root / "objects" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert store.exists(key)


def test_an_object_or_a_folder_of_the_store(inputs: Inputs, tmp_path: Path) -> None:
    put(inputs.store, tmp_path, "models/tiny/config.json", b"{}")
    put(inputs.store, tmp_path, "models/tiny/sub/a.txt", b"a")
    put(inputs.store, tmp_path, "data/train.csv", b"text\n")
    spec = spec_with(base_model={"uri": "store://models/tiny"}, dataset={"uri": "store://data/train.csv"})
    resolved = inputs.resolve(spec)
    assert resolved.base_model.path is not None
    assert (Path(resolved.base_model.path) / "sub" / "a.txt").read_bytes() == b"a"
    assert resolved.dataset.path is not None
    assert Path(resolved.dataset.path).read_bytes() == b"text\n"


def test_an_object_that_is_not_there(inputs: Inputs) -> None:
    error = refused(inputs, dataset={"uri": "store://nothing/here"})
    assert (error.code, error.pointer) == ("source_unavailable", "/dataset/uri")


@pytest.mark.parametrize("name", ["data.csv.gz", "data.csv", "data.tar"])
def test_gzip_bomb_is_refused_whatever_its_name(
    inputs: Inputs, upload: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 10_000)
    bomb = gzip.compress(b"text,label\n" + b"good,1\n" * 1_000_000)
    if name.endswith(".tar"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = member("train.csv.gz")
            info.size = len(bomb)
            tar.addfile(info, io.BytesIO(bomb))
        bomb = buffer.getvalue()
    spec = spec_with(dataset={"upload": upload(name, bomb)})
    with pytest.raises(UnsafeArchive, match="unpacks to more"):
        inputs.resolve(spec)
    assert not (inputs.folder / "dataset").exists()


def test_name_of_many_letters_that_take_more_than_a_byte(inputs: Inputs, upload: Callable[..., str]) -> None:
    spec = spec_with(dataset={"upload": upload("\u5b57" * 190 + ".csv", b"text,label\n")})
    path = inputs.resolve(spec).dataset.path
    assert path is not None
    assert path.endswith(".csv")
    assert Path(path).read_bytes() == b"text,label\n"
