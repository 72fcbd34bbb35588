"""The same code on Postgres, Redis and S3, by settings alone: every part a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from axforge.client import Client
from examples.demo import AXFORGE, free_port, wait_until_ready
from models.store import blob_key
from tests.models.databases import fresh_database

WAIT_SECONDS = 240.0
STOP_SECONDS = 60.0
CELERY = ("celery", "--app", "worker.celery_app", "worker", "--pool", "prefork", "--concurrency", "1")


@pytest.fixture
def bucket() -> Iterator[dict[str, str]]:
    """An S3 server with a bucket `axforge`; the variables that lead to it."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        variables = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
        boto3.client(
            "s3",
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ).create_bucket(Bucket="axforge")
        yield variables
    finally:
        server.stop()


@pytest.fixture
def stack_url(bucket: dict[str, str], redis_url: str, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as parts:
        variables = bucket | {
            "AXFORGE_DATABASE_URL": parts.enter_context(fresh_database("postgresql", tmp_path)),
            "AXFORGE_BROKER_URL": redis_url,
            "AXFORGE_STORE_URL": "s3://axforge/service",
            "AXFORGE_API_PRESIGN_SECONDS": "60",
        }
        subprocess.run([sys.executable, "-m", "migrations"], env=os.environ | variables, check=True)
        for name, command in {
            "dispatcher": ["worker.dispatcher"],
            "reaper": ["worker.reaper"],
            "worker": [*CELERY],
        }.items():
            command = [sys.executable, "-m", *command]
            parts.enter_context(_process(name, command, variables, tmp_path))
        command = [str(AXFORGE), "serve", "--port", str(port)]
        api = parts.enter_context(_process("api", command, variables, tmp_path))
        wait_until_ready(api, url, tmp_path / "api.log")
        yield url


@contextmanager
def _process(
    name: str, command: list[str], variables: dict[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A part with a data folder of its own, as on a machine of its own; it has to end well."""
    environment = os.environ | variables | {"AXFORGE_DATA_DIR": str(folder / name)}
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0, (folder / f"{name}.log").read_text()[-4000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_job_from_upload_to_download(stack_url: str, inputs: Path, tmp_path: Path) -> None:
    with Client(stack_url) as client:
        job = client.create_job(
            {
                "base_model": {"upload": client.upload(inputs / "model", "model").id},
                "dataset": {"upload": client.upload(inputs / "data", "dataset").id},
                "constraints": {"accuracy": {"min": 0.0}, "size": {"min_reduction": 1.0}},
                "focus": "size",
                "baseline": {"epochs": 2},
                "recovery": {"epochs": 1},
                "budget": {"max_minutes": 1, "max_candidates": 4},
            }
        )
        job = client.wait(job.id, timeout=WAIT_SECONDS)
        assert job.status == "succeeded", job.error
        assert job.constraints_met
        files = {file.name: file for file in client.artifacts(job.id)}
        client.download(job.id, tmp_path / "files")  # which checks every digest
    assert {"certificate.json"} < set(files)
    certificate = files["certificate.json"]
    answer = httpx.get(f"{stack_url}{certificate.url}")
    assert answer.status_code == 307
    assert f"/axforge/service/{blob_key(certificate.sha256)}?X-Amz-" in answer.headers["Location"]
    # Nobody's credentials but the signature are needed there, and nothing is left to the API's disk.
    sent = httpx.get(answer.headers["Location"])
    assert sent.content == (tmp_path / "files" / "certificate.json").read_bytes()
    assert not (tmp_path / "api" / "objects").exists()
    assert httpx.get(f"{stack_url}/readyz").json()["status"] == "ok"
