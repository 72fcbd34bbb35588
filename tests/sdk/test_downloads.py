"""Files arrive whole, or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from axforge import AxforgeError, ConnectionFailed, IntegrityError, UnsafeName
from tests.sdk.samples import JOB_ID, Script, Stream, artifact, page

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def broken(content: bytes) -> httpx.Response:
    return httpx.Response(200, stream=Stream(content, httpx.ReadError("connection reset")))


def whole(content: bytes = CONTENT) -> httpx.Response:
    return httpx.Response(200, stream=Stream(content))


def listing(name: str = "onnx/model.onnx") -> httpx.Response:
    return page([artifact(name, CONTENT, DIGEST)])


def rest_from(offset: int) -> httpx.Response:
    headers = {"Content-Range": f"bytes {offset}-{len(CONTENT) - 1}/{len(CONTENT)}"}
    return httpx.Response(206, stream=Stream(CONTENT[offset:]), headers=headers)


def test_a_broken_transfer_goes_on_where_it_broke(tmp_path: Path) -> None:
    server = Script(listing(), broken(CONTENT[:1000]), rest_from(1000))
    assert server.client().download(JOB_ID, tmp_path) == [tmp_path / "onnx" / "model.onnx"]
    assert (tmp_path / "onnx" / "model.onnx").read_bytes() == CONTENT
    assert server.requests[2].headers["Range"] == "bytes=1000-"
    assert server.requests[2].headers["If-Range"] == f'"{DIGEST}"'
    assert [path.name for path in tmp_path.rglob("*.part")] == []


def test_a_part_of_an_earlier_call_is_gone_on_from(tmp_path: Path) -> None:
    first = Script(listing("model.onnx"), broken(CONTENT[:4096]))
    with pytest.raises(ConnectionFailed, match="call again"):
        first.client(retries=0).download(JOB_ID, tmp_path)
    assert not (tmp_path / "model.onnx").exists()
    second = Script(listing("model.onnx"), rest_from(4096))
    second.client().download(JOB_ID, tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == CONTENT


def test_a_part_of_another_file_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.part").write_bytes(b"something else")
    server = Script(listing("model.onnx"), rest_from(14), whole())
    server.client().download(JOB_ID, tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == CONTENT


def test_a_server_that_ignores_the_range_starts_the_file_anew(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.part").write_bytes(CONTENT[:100])
    server = Script(listing("model.onnx"), whole())
    server.client().download(JOB_ID, tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == CONTENT


def test_a_part_that_is_complete_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.part").write_bytes(CONTENT)
    server = Script(listing("model.onnx"), httpx.Response(416))
    server.client().download(JOB_ID, tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == CONTENT


def test_a_file_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    server = Script(listing("model.onnx"))
    server.client().download(JOB_ID, tmp_path)
    assert len(server.requests) == 1


def test_wrong_content_is_not_kept(tmp_path: Path) -> None:
    server = Script(listing("model.onnx"), whole(CONTENT[:-1] + b"!"))
    with pytest.raises(IntegrityError, match=DIGEST):
        server.client().download(JOB_ID, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/passwd", "..", "", "a\\b", "C:evil", "a\x00b", "a\nb"]
)
def test_a_name_that_leads_out_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "inside"
    server = Script(page([artifact("good.txt", CONTENT, DIGEST), artifact(name, CONTENT, DIGEST)]))
    with pytest.raises(UnsafeName):
        server.client().download(JOB_ID, folder)
    assert list(tmp_path.iterdir()) == []


def test_a_link_inside_the_folder_does_not_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "onnx").symlink_to(tmp_path)
    server = Script(listing())
    with pytest.raises(UnsafeName, match="link"):
        server.client().download(JOB_ID, folder)


def test_only_the_files_that_were_asked_for(tmp_path: Path) -> None:
    listed = page([artifact("a", CONTENT, DIGEST), artifact("b", CONTENT, DIGEST)])
    server = Script(listed, whole())
    assert server.client().download(JOB_ID, tmp_path, names=["b"]) == [tmp_path / "b"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AxforgeError, match=r"no file zebra\.bin"):
        Script(listing()).client().download(JOB_ID, tmp_path, names=["zebra.bin"])


def test_the_certificate_is_checked_too() -> None:
    listed = page([artifact("certificate.json", b"{}", DIGEST)])
    with pytest.raises(IntegrityError):
        Script(listed, httpx.Response(200, content=b"{}")).client().certificate(JOB_ID)
