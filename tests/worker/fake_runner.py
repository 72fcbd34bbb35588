"""A runner with an engine of a few lines: `python -m tests.worker.fake_runner MODE JOB ATTEMPT`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import structlog

from models.spec import (
    Candidate,
    CandidateMeasurements,
    Certificate,
    JobSpec,
    Latency,
    MetricValue,
    ModelMeasurements,
    Ratios,
    Recipe,
)
from worker.engine.errors import ColumnError
from worker.engine.reporting import FINISHED, STARTED, Reporter
from worker.runner import main


@dataclass(frozen=True)
class File:
    name: str
    path: Path
    media_type: str


@dataclass(frozen=True)
class Result:
    certificate: Certificate
    artifacts: tuple[File, ...]


def certificate(spec_digest: str) -> Certificate:
    side = ModelMeasurements(
        metric=MetricValue(name="accuracy", value=0.9),
        latency_ms=Latency(p50=1, p95=2),
        throughput=1,
        size_bytes=1,
        parameters=1,
        macs=1,
    )
    return Certificate(
        dense=side,
        optimized=side,
        ratios=Ratios(speedup=1, size_reduction=1, relative_drop=0, relative_drop_interval=(0, 0)),
        constraints=(),
        constraints_met=True,
        verdict="met",
        loadable="onnx",
        device="cpu",
        runtime="onnxruntime",
        versions={},
        seed=0,
        spec_digest=spec_digest,
        artifacts={},
        holdout_rows=1,
        recipe=Recipe(),
    )


def candidate(number: int) -> Candidate:
    return Candidate(
        number=number,
        stage="search",
        recipe=Recipe(),
        measurements=CandidateMeasurements(parameters=1, macs=1, size_bytes=1),
        accepted=True,
        reason="smaller",
    )


def succeed(spec: JobSpec, workdir: Path, reporter: Reporter) -> Result:
    prepared = workdir / "prepare" / "done.json"
    if not prepared.exists():
        prepare(workdir, reporter)
    reporter.event("prepared", "It is prepared.", text=prepared.read_text())
    reporter.progress("search", 0, None, STARTED)
    for number in range(2):
        reporter.candidate(candidate(number))
        reporter.progress("search", number + 1, 2)
    reporter.progress("search", 1, 1, FINISHED)
    (workdir / "model.onnx").write_bytes(b"weights")
    (workdir / "certificate.json").write_text(certificate(spec.digest()).model_dump_json())
    return Result(
        certificate(spec.digest()),
        (
            File("model.onnx", workdir / "model.onnx", "application/octet-stream"),
            File("certificate.json", workdir / "certificate.json", "application/json"),
        ),
    )


def talk(spec: JobSpec, workdir: Path, reporter: Reporter) -> Result:
    """Succeed, as loudly as libraries are."""
    print("plain words", flush=True)
    sys.stderr.write("\r 50% of a bar\r100% of a bar\n")
    os.write(2, b"[W:onnxruntime] a compiled library\n")
    warnings.warn("an old call", DeprecationWarning, stacklevel=1)
    logging.getLogger("transformers").warning("weights were %s", "made up")
    try:
        secret = os.environ["HF_TOKEN"]
        raise ConnectionError(f"https://user:{secret}@hub.example/x failed")
    except ConnectionError:
        structlog.get_logger("hub").exception("hub_failed", header=f"Bearer {secret}")
    return succeed(spec, workdir, reporter)


def prepare(workdir: Path, reporter: Reporter) -> None:
    reporter.progress("prepare", 0, None, STARTED)
    (workdir / "prepare").mkdir(parents=True)
    (workdir / "prepare" / "done.json").write_text(f'{{"by": {os.getpid()}}}')
    reporter.progress("prepare", 1, 1, FINISHED)
    reporter.progress("baseline", 0, None, "waiting")


def wait(spec: JobSpec, workdir: Path, reporter: Reporter) -> Result:
    prepare(workdir, reporter)
    while True:
        reporter.check()
        time.sleep(0.01)


def never_check(spec: JobSpec, workdir: Path, reporter: Reporter) -> Result:
    prepare(workdir, reporter)
    while True:
        time.sleep(0.01)


def refuse(spec: JobSpec, workdir: Path, reporter: Reporter) -> Result:
    raise ColumnError("Two columns hold text.", remedy="Name one.", pointer="/dataset/columns/text")


def stumble(spec: JobSpec, workdir: Path, reporter: Reporter) -> Result:
    raise ZeroDivisionError(f"in {workdir}")


def crash(spec: JobSpec, workdir: Path, reporter: Reporter) -> Result:
    os._exit(1)


def run_out_of_memory(spec: JobSpec, workdir: Path, reporter: Reporter) -> Result:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


if __name__ == "__main__":
    mode, job_id, attempt = sys.argv[1:]
    engine = globals()[mode]
    sys.exit(main(job_id, int(attempt), lambda spec, workdir, reporter, _: engine(spec, workdir, reporter)))
