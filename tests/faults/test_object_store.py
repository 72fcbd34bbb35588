"""An object store that answers 500, cuts off, shortens or is slow: nothing half is ever taken for whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import models.store
from models.job import JobStatus
from models.store import BlobDamaged, Store, StoreError, open_store
from tests.faults.effects import assert_delivered_once
from tests.faults.marks import on_sqlite
from tests.faults.service import Service
from tests.faults.store_proxy import StoreProxy, store_proxy
from tests.worker.jobs import events, load, wait_until

URL = "s3://axforge/faults"
CONTENT = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=url, **credentials).create_bucket(Bucket="axforge")
    yield url
    server.stop()


@pytest.fixture
def proxy(upstream: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreProxy]:
    with store_proxy(upstream) as proxy:
        for name, value in environment(proxy).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def s3(proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """With fewer tries than in production, so that giving up does not take long."""
    monkeypatch.setitem(models.store.RETRY, "max_retries", 3)
    store = open_store(URL, spool=tmp_path)
    yield store
    proxy.behave()
    for key in list(store.list("")):
        store.delete(key)


def environment(proxy: StoreProxy) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("fault", ["error", "cut", "slow"])
def test_passing_trouble_is_not_noticed(s3: Store, proxy: StoreProxy, file: Path, fault: str) -> None:
    proxy.spoil(fault, 2)  # type: ignore[arg-type]
    blob = s3.put_file(file)
    s3.download(blob.key, file.with_name("out"))
    assert file.with_name("out").read_bytes() == CONTENT
    assert proxy.spoiled >= 1


@pytest.mark.parametrize("fault", ["error", "short"])
def test_lasting_trouble_is_told_and_leaves_no_file(
    s3: Store, proxy: StoreProxy, file: Path, fault: str
) -> None:
    blob = s3.put_file(file)
    proxy.spoil(fault)  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        s3.download(blob.key, file.with_name("out"))
    assert {path.name for path in file.parent.iterdir()} == {"in"}


def test_a_file_of_which_half_arrived_does_not_count_as_stored(
    s3: Store, proxy: StoreProxy, file: Path
) -> None:
    proxy.spoil("half stored", 1)
    with pytest.raises(BlobDamaged):
        s3.put_file(file)
    blob = s3.put_file(file)
    s3.download(blob.key, file.with_name("out"))
    assert file.with_name("out").read_bytes() == CONTENT


@pytest.mark.slow
@on_sqlite
def test_a_job_outlives_an_outage_of_the_store(service: Service, proxy: StoreProxy) -> None:
    """Candidates go on without checkpoints; the files are delivered when the store is back."""
    service.store_url = URL
    service.environment |= environment(proxy)
    hold = service.hold("candidate-1")
    job_id = service.create()
    service.worker()
    service.keepers()
    service.wait_for_work("1 candidate-1")
    proxy.spoil("error")
    hold.unlink()
    wait_until(lambda: "job.requeued" in events(service.database, job_id), 120)
    job = load(service.database, job_id)
    assert (job.status, job.losses) == (JobStatus.QUEUED, 1)
    proxy.behave()
    service.wait_until_done(job_id)
    assert_delivered_once(service.database, open_store(URL), job_id)
    assert set(service.done_twice()) <= {"deliver"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["short", "slow"])
@on_sqlite
def test_a_checkpoint_read_badly_is_made_again(
    service: Service, proxy: StoreProxy, tmp_path: Path, fault: str
) -> None:
    """Another machine goes on; where it cannot read the checkpoint whole it begins anew."""
    service.store_url = URL
    service.environment |= environment(proxy)
    service.hold("1-candidate-2")
    job_id = service.create()
    service.worker("one")
    service.keepers()
    service.wait_for_work("1 candidate-2")
    service.lose_machine("one", job_id)
    proxy.spoil(fault, 20)  # type: ignore[arg-type]
    service.worker("two", AXFORGE_DATA_DIR=str(tmp_path / "elsewhere"))
    service.wait_for_work("2 candidate-2")
    proxy.behave()
    service.wait_until_done(job_id)
    assert_delivered_once(service.database, open_store(URL), job_id)
    again = {"prepare", "candidate-0", "candidate-1", "candidate-2"}
    assert service.done_twice().keys() == (again if fault == "short" else {"candidate-2"})
