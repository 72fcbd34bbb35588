"""Specs as users have them, and the files of their machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from datetime import date
from pathlib import Path

import httpx
import pytest

from axforge import SpecError
from axforge.packing import parcel
from axforge.specs import read, settle_paths
from tests.sdk.samples import MOMENT, SPEC, Script, job, problem

LOCAL = {"base_model": {"path": "models/base"}, "dataset": {"path": "data", "columns": {"text": "q"}}}


def refuse_upload(path: Path, kind: str) -> str:
    raise AssertionError(f"{path} was sent as {kind}")


def test_paths_of_a_file_start_at_its_folder(tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text("base_model: {path: models/base}\ndataset: {path: /data/set}\nseed: 3\n")
    document, folder = read(spec)
    settled = settle_paths(document, folder, "auto", server="http://localhost:8000", upload=refuse_upload)
    assert settled["base_model"] == {"path": str(tmp_path / "models" / "base")}
    assert settled["dataset"] == {"path": "/data/set"}
    assert settled["seed"] == 3


@pytest.mark.parametrize("server", ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost"])
def test_a_server_of_this_machine_gets_the_absolute_path(server: str, tmp_path: Path) -> None:
    settled = settle_paths(LOCAL, tmp_path, "auto", server=server, upload=refuse_upload)
    assert settled["dataset"] == {"path": str(tmp_path / "data"), "columns": {"text": "q"}}


def test_a_path_means_nothing_to_another_machine(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--upload") as caught:
        settle_paths(LOCAL, tmp_path, "auto", server="https://axforge.example", upload=refuse_upload)
    assert caught.value.pointer == "/base_model/path"


def test_a_path_of_the_servers_machine_is_kept(tmp_path: Path) -> None:
    kept = settle_paths(LOCAL, tmp_path, "keep", server="https://axforge.example", upload=refuse_upload)
    assert kept == LOCAL


def test_uploads_take_the_place_of_paths(tmp_path: Path) -> None:
    sent: list[tuple[Path, str]] = []

    def upload(path: Path, kind: str) -> str:
        sent.append((path, kind))
        return f"upl_{kind}"

    settled = settle_paths(LOCAL, tmp_path, "upload", server="https://axforge.example", upload=upload)
    assert settled["base_model"] == {"upload": "upl_model"}
    assert settled["dataset"] == {"upload": "upl_dataset", "columns": {"text": "q"}}
    assert sent == [(tmp_path / "models" / "base", "model"), (tmp_path / "data", "dataset")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base_model: {", "line 1"),
        ("- a\n- b\n", "mapping"),
        ("just words", "mapping"),
        ("budget: {max_minutes: .inf}", "infinite"),
    ],
)
def test_what_is_no_spec_is_told(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        read(text)


def test_a_spec_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        read(tmp_path / "none.yaml")


def test_dates_and_paths_become_text() -> None:
    document, _ = read({"metadata": {"day": date(2026, 1, 2)}, "base_model": {"path": Path("/m")}})
    assert document == {"metadata": {"day": "2026-01-02"}, "base_model": {"path": "/m"}}
    assert read("metadata: {day: 2026-01-02}")[0] == {"metadata": {"day": "2026-01-02"}}


def test_a_folder_is_packed_without_pickles_and_hidden_files(tmp_path: Path) -> None:
    folder = tmp_path / "mini lm"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "blob").write_bytes(b"weights")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    (folder / "sub" / "vocab.txt").write_text("a\n")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    with parcel(folder) as packed:
        first = packed.file.read()
        name = packed.name
    with parcel(folder) as packed:
        assert packed.file.read() == first
    assert name == "mini lm.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        assert archive.getnames() == ["model.safetensors", "sub/vocab.txt"]
        weights = archive.extractfile("model.safetensors")
        assert weights is not None
        assert weights.read() == b"weights"


def test_pickles_are_never_sent(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"\x80\x04")
    with pytest.raises(SpecError, match="safetensors"), parcel(tmp_path / "model.pt"):
        pass
    with pytest.raises(SpecError, match="no file that can be sent"), parcel(tmp_path):
        pass
    with pytest.raises(SpecError, match="no file or folder"), parcel(tmp_path / "none"):
        pass


@pytest.mark.parametrize(
    ("name", "sent"),
    [("train.jsonl.gz", "train.jsonl.gz"), ("año §1.csv", "año _1.csv"), ("-x;y.csv", "x-x_y.csv")],
)
def test_a_file_keeps_its_name_as_far_as_the_server_takes_it(tmp_path: Path, name: str, sent: str) -> None:
    (tmp_path / name).write_text("text,label\n")
    with parcel(tmp_path / name) as packed:
        assert packed.name == sent


def test_an_upload_is_sent_whole_again_after_a_break(tmp_path: Path) -> None:
    data = gzip.compress(b"text,label\n" * 1000)
    (tmp_path / "train.csv.gz").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    stored = {
        "id": "upl_" + "0" * 28,
        "object": "upload",
        "kind": "dataset",
        "filename": "train.csv.gz",
        "size": len(data),
        "sha256": digest,
        "media_type": "application/gzip",
        "created_at": MOMENT,
        "expires_at": None,
    }
    server = Script(problem(503, "service_unavailable"), httpx.Response(201, json=stored))
    assert server.client().upload(tmp_path / "train.csv.gz", "dataset").id == stored["id"]
    assert [request.content for request in server.requests] == [data, data]
    assert server.requests[0].headers["Content-Length"] == str(len(data))
    assert dict(server.requests[0].url.params) == {
        "kind": "dataset",
        "filename": "train.csv.gz",
        "sha256": digest,
    }


def test_a_spec_as_text_is_sent_as_json() -> None:
    server = Script(httpx.Response(202, json=job()))
    server.client().create_job("base_model: {hub: org/model}\ndataset: {hub: org/data}\n")
    assert httpx.Response(200, content=server.requests[0].content).json() == SPEC
