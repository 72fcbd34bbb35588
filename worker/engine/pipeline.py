"""The run of a job: prepare, baseline, analyse, search, recover, export, certify; each resumable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.spec import Certificate, JobSpec
from worker.engine.crew import Crew
from worker.engine.measure.holdout_report import REPORT_FILE
from worker.engine.memory import give_back
from worker.engine.reporting import FINISHED, STAGES, STARTED, Reporter, Stage
from worker.engine.run import Run
from worker.engine.stages.analyse import analyse
from worker.engine.stages.baseline import baseline
from worker.engine.stages.certify import certify
from worker.engine.stages.export import export
from worker.engine.stages.prepare import prepare
from worker.engine.stages.recover import recover
from worker.engine.stages.report import JSON_FILE, PAGE_FILE
from worker.engine.stages.search import search

Runner = Callable[[Run], dict[str, Any]]
RUNNERS: dict[Stage, Runner] = {
    "prepare": prepare,
    "baseline": baseline,
    "analyse": analyse,
    "search": search,
    "recover": recover,
    "export": export,
    "certify": certify,
}


@dataclass(frozen=True)
class ArtifactFile:
    """A file for the user, by its name in the list of artifacts."""

    name: str
    path: Path
    media_type: str


@dataclass(frozen=True)
class RunResult:
    certificate: Certificate
    artifacts: tuple[ArtifactFile, ...]


MEDIA_TYPES = {
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".onnx": "application/octet-stream",
    ".safetensors": "application/octet-stream",
    ".txt": "text/plain",
    ".py": "text/x-python",
}


def run(spec: JobSpec, workdir: Path, reporter: Reporter, crew: Crew | None = None) -> RunResult:
    """Do the whole job in `workdir`, going on from what a killed run left there.

    `crew` shares the work that several workers may do; without one this process does all of it.
    Sources must be paths or hub names (uploads and object URIs are the caller's to fetch).
    Raises EngineError, which a user can mend, and Stopped when the reporter asks for it.
    """
    job = Run(spec, workdir, reporter, crew)
    do_stages(job)
    return _result(job)


def do_stages(job: Run, stages: Sequence[Stage] = STAGES, runners: Mapping[Stage, Runner] = RUNNERS) -> None:
    """Do those of `stages` that the workspace has not finished, in their order; raises as `run` does."""
    for stage in stages:
        job.reporter.check()
        if job.workspace.result(stage) is None:
            job.reporter.progress(stage, 0, None, STARTED)
            job.workspace.finish(stage, runners[stage](job))
            give_back()
            job.stopwatch.save()
        job.reporter.progress(stage, 1, 1, FINISHED)


def _result(job: Run) -> RunResult:
    folder = job.workspace.folder("export") / "optimized"
    certificate_file = job.workspace.folder("certify") / "certificate.json"
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files |= {
        "certificate.json": certificate_file,
        **{name: job.workspace.folder("certify") / name for name in (REPORT_FILE, JSON_FILE, PAGE_FILE)},
        "significance.json": job.workspace.folder("analyse") / "significance.json",
    }
    return RunResult(
        Certificate.model_validate_json(certificate_file.read_text(encoding="utf-8")),
        tuple(
            ArtifactFile(name, path, MEDIA_TYPES.get(path.suffix, "application/octet-stream"))
            for name, path in files.items()
        ),
    )
