"""Following a job on the screen until it is done, and what its end means for the exit status."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console

from axforge.cli.exits import ExitCode
from axforge.cli.progress import ProgressView
from axforge.cli.session import Session
from axforge.client import Client
from axforge.errors import ConnectionFailed
from axforge.types import Candidate, Event, Job

SAID_BY_PROGRESS = frozenset({"job.created", "stage.started"})


def follow(session: Session, client: Client, job_id: str) -> NoReturn:
    """Show the job's progress to its end, then leave with its exit status.

    An interrupt (Ctrl-C) lets go of the job, which goes on at the server, and leaves with 130. So
    does a connection that stays broken, but with 1.
    """
    try:
        with ProgressView(session.console(), json=session.json) as view:
            watching = _Watching(view, every_event=session.json)
            job = client.wait(
                job_id,
                on_progress=watching.progress,
                on_event=watching.event,
                on_candidate=watching.candidate,
            )
            if job.status != "succeeded":
                raise _Unsuccessful
            certificate = client.certificate(job_id)
            if certificate is not None:
                view.certificate(certificate)
    except _Unsuccessful:
        if not session.json:
            show_job_error(job)
    except KeyboardInterrupt:
        _say_detached(job_id)
        raise typer.Exit(ExitCode.DETACHED) from None
    except ConnectionFailed:
        _say_detached(job_id)
        raise
    _finish(session, job)


def outcome(job: Job) -> ExitCode:
    """The exit status that an end stands for: 0 constraints met, 3 not met, 1 failed or cancelled."""
    if job.status != "succeeded":
        return ExitCode.FAILED
    return ExitCode.OK if job.constraints_met else ExitCode.NOT_MET


def show_job_error(job: Job) -> None:
    """Tell on standard error why a job did not succeed."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{job.id} {job.status}", style="bold red", markup=False)
    if job.error is not None:
        where = f"{job.error.pointer}: " if job.error.pointer else ""
        console.print(f"{where}{job.error.detail} ({job.error.code})", markup=False)
        if job.error.remedy:
            console.print(job.error.remedy, style="green", markup=False)


def _finish(session: Session, job: Job) -> NoReturn:
    if session.json:
        session.write({"type": "job", "job": job.model_dump(mode="json")})
    elif job.status == "succeeded":
        session.console().print(f"Download: axforge download {job.id}", markup=False, soft_wrap=True)
    raise typer.Exit(outcome(job))


class _Unsuccessful(Exception):
    """The job ended, but its last stage did not."""


class _Watching:
    """From the client's callbacks to the view."""

    def __init__(self, view: ProgressView, *, every_event: bool) -> None:
        self._view = view
        self._hidden = frozenset() if every_event else SAID_BY_PROGRESS
        self._shown: tuple[object, ...] | None = None

    def progress(self, job: Job) -> None:
        """Show where the job stands, if that changed."""
        progress = job.progress
        if job.done or progress is None or progress.stage is None:
            return
        state = (progress.stage, progress.step, progress.total, progress.message)
        if state != self._shown:
            self._shown = state
            self._view.progress(
                progress.stage, progress.step or 0, progress.total, progress.message, eta=progress.eta_seconds
            )

    def event(self, event: Event) -> None:
        if event.type in self._hidden:
            return
        self._view.event(event.type, event.message, event.data)

    def candidate(self, candidate: Candidate) -> None:
        self._view.candidate(candidate.model_dump(mode="json"))


def _say_detached(job_id: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"\nDetached. {job_id} goes on at the server.", markup=False)
    console.print(f"Watch it again: axforge status {job_id} --wait", markup=False)
    console.print(f"Stop it: axforge cancel {job_id}", markup=False)
