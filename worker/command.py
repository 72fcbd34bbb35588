"""`axforge optimize`: a whole job on this machine, without server, queue or database."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from axforge import specs
from axforge.cli.exits import ExitCode, exit_code, show_error
from axforge.cli.progress import ProgressView
from axforge.errors import AxforgeError, FieldError, ProblemError
from models.spec import Candidate, JobSpec
from worker.engine.errors import EngineError, Stopped
from worker.engine.reporting import Stage

REDRAW_SECONDS = 0.2
THIS_MACHINE = "http://127.0.0.1"


def optimize(
    spec: Annotated[Path, typer.Argument(help="Job spec, YAML or JSON; its paths are relative to it.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the run; the same folder resumes it.")
    ],
    json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a progress display.")] = False,
) -> None:
    """Optimize a model on this machine, without a server.

    Exit status: 0 constraints met, 3 not met, 1 failed, 2 bad spec, 130 stopped (run it again to go on).
    """
    try:
        job = _read(spec)
        certificate = _run(job, output, json=json)
    except AxforgeError as error:
        show_error(error, json=json)
        raise typer.Exit(exit_code(error)) from None
    except Stopped:
        typer.echo("Stopped; the same command goes on from here.", err=True)
        raise typer.Exit(ExitCode.DETACHED) from None
    raise typer.Exit(ExitCode.OK if certificate["constraints_met"] else ExitCode.NOT_MET)


class TerminalReporter:
    """Shows a run on the terminal; the first SIGINT or SIGTERM asks it to stop at the next step."""

    def __init__(self, view: ProgressView) -> None:
        self._view = view
        self._stop = False
        self._last: tuple[str, str] = ("", "")
        self._drawn = 0.0
        signal.signal(signal.SIGINT, self._ask_to_stop)
        signal.signal(signal.SIGTERM, self._ask_to_stop)

    def progress(
        self, stage: Stage, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        now = time.monotonic()
        if (stage, message) == self._last and now - self._drawn < REDRAW_SECONDS:
            return
        self._last, self._drawn = (stage, message), now
        self._view.progress(stage, step, total, message, metrics)

    def event(self, type: str, message: str, **data: Any) -> None:
        self._view.event(type, message, data)

    def candidate(self, candidate: Candidate) -> None:
        self._view.candidate(candidate.model_dump(mode="json"))

    def check(self) -> None:
        if self._stop:
            raise Stopped

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
        signal.signal(number, signal.SIG_DFL)  # a second one ends it at once


def _read(file: Path) -> JobSpec:
    document, folder = specs.read(file)
    settled = specs.settle_paths(document, folder, "auto", server=THIS_MACHINE, upload=_refuse_upload)
    try:
        return JobSpec.model_validate(settled)
    except ValidationError as error:
        fields = [
            FieldError(where="/" + "/".join(map(str, each["loc"])), detail=each["msg"])
            for each in error.errors()
        ]
        raise _problem("invalid_spec", 422, "The job spec is not valid", errors=fields) from None


def _run(job: JobSpec, output: Path, *, json: bool) -> dict[str, Any]:
    from worker.engine.pipeline import run  # imports torch: not before the spec is known to be right

    with ProgressView(json=json) as view:
        try:
            result = run(job, output, TerminalReporter(view))
        except EngineError as error:
            where = [FieldError(where=error.pointer or "/", detail=error.message, remedy=error.remedy)]
            raise _problem(error.code, 500, "The run failed", errors=where) from error
        certificate = result.certificate.model_dump(mode="json")
    view.certificate(certificate)
    return certificate


def _problem(code: str, status: int, title: str, *, errors: list[FieldError]) -> ProblemError:
    return ProblemError(code=code, status=status, title=title, errors=errors)


def _refuse_upload(path: Path, kind: str) -> str:
    raise AssertionError("paths of this machine are used as they are")
