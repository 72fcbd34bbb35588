"""The main job over HTTP, small: a server with everything embedded, a tiny BERT, some of BANKING77."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from axforge.client import Client
from axforge.types import Candidate, Job

WAIT_SECONDS = 240.0


@pytest.fixture
def client(server_url: str) -> Iterator[Client]:
    with Client(server_url) as client:
        yield client


@pytest.fixture
def spec(inputs: Path) -> dict[str, Any]:
    """A job whose constraints any small model meets."""
    return {
        "name": "tiny",
        "base_model": {"path": str(inputs / "model")},
        "dataset": {"path": str(inputs / "data")},
        "constraints": {"accuracy": {"min": 0.0}, "size": {"min_reduction": 1.0}},
        "focus": "size",
        "baseline": {"epochs": 2},
        "recovery": {"epochs": 1},
        "budget": {"max_minutes": 1, "max_candidates": 6},
    }


def test_job_delivers_certified_files(client: Client, spec: dict[str, Any], tmp_path: Path) -> None:
    job = client.wait(client.create_job(spec).id, timeout=WAIT_SECONDS)
    assert job.status == "succeeded", job.error
    paths = client.download(job.id, tmp_path)
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert certificate["constraints_met"] is job.constraints_met is True
    assert {constraint["name"] for constraint in certificate["constraints"]} == {
        "accuracy.min",
        "size.min_reduction",
    }
    assert certificate["optimized"]["size_bytes"] < certificate["dense"]["size_bytes"]
    assert certificate["holdout_rows"] == 160
    delivered = {str(path.relative_to(tmp_path)): path for path in paths}
    assert certificate["artifacts"]
    for name, digest in certificate["artifacts"].items():
        assert hashlib.sha256(delivered[name].read_bytes()).hexdigest() == digest
    assert any(name.endswith(".onnx") for name in delivered)
    assert any(name.endswith(".safetensors") for name in delivered)


@pytest.mark.slow
def test_killed_run_goes_on_where_it_was(client: Client, spec: dict[str, Any]) -> None:
    killed: list[int] = []
    told: list[Candidate] = []

    def kill_once(job: Job) -> None:
        if not killed and told and job.status == "running":
            killed.extend(_runners(job.id))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    # Another seed: the first job's answer must not be taken for this one's.
    created = client.create_job({**spec, "seed": 1})
    job = client.wait(
        created.id, on_candidate=told.append, on_progress=kill_once, timeout=WAIT_SECONDS, poll=1
    )
    assert len(killed) == 1
    assert job.status == "succeeded", job.error
    assert job.attempt == 2
    assert job.constraints_met is True
    numbers = [candidate.number for candidate in client.candidates(job.id)]
    assert numbers == sorted(set(numbers))


def _runners(job_id: str) -> list[int]:
    """Process ids of the runner of that job."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:  # it ended while we looked
            continue
        if b"worker.runner" in words and job_id.encode() in words:
            found.append(int(entry.name))
    return found
