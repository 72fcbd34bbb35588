"""download, report, export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from axforge.cli.certificate import render
from axforge.cli.exits import ExitCode
from axforge.cli.following import outcome, show_job_error
from axforge.cli.session import Session, connected
from axforge.types import Artifact

REPORT = ("report.html", "report.json")


@connected
def download(
    session: Session,
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="Only these files.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to; default: one named as the job.")
    ] = None,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="Show the certificate afterwards.")
    ] = False,
) -> None:
    """Fetch the files of a job. Call it again to go on after a break; what is complete is kept."""
    folder = output or Path(job_id)
    console = session.console()
    with session.client() as client:
        try:
            with _bars(console, quiet=session.json) as on_bytes:
                paths = client.download(job_id, folder, names=names or None, on_bytes=on_bytes)
        except KeyboardInterrupt:
            Console(stderr=True, highlight=False).print("Stopped; the same command goes on from here.")
            raise typer.Exit(ExitCode.DETACHED) from None
        found = client.certificate(job_id) if certificate else None
    if session.json:
        session.write({"files": [str(path) for path in paths], "certificate": found})
        return
    for path in paths:
        console.print(str(path), markup=False, soft_wrap=True)
    if not paths:
        console.print(f"{job_id} has delivered no files.", markup=False)
    if found is not None:
        console.print(render(found))


@connected
def report(
    session: Session,
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to; default: one named as the job.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Fetch the report of a job: a page that needs no network, and the same as JSON."""
    with session.client() as client:
        paths = client.download(job_id, output or Path(job_id), names=list(REPORT))
    if session.json:
        session.write({"files": [str(path) for path in paths]})
    else:
        for path in paths:
            session.console().print(str(path), markup=False, soft_wrap=True)
    if show:
        page = next(path for path in paths if path.suffix == ".html")
        typer.launch(page.resolve().as_uri())


@connected
def export(
    session: Session,
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job that found the candidate.")],
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=0, help="Number of the candidate.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write to; default: one named as job and candidate."),
    ] = None,
) -> None:
    """Export and certify another candidate of a job, wait for it, and fetch its files.

    Exit status as for submit --wait. The same command goes on after a break.
    """
    folder = output or Path(f"{job_id}-{number}")
    console = session.console()
    with session.client() as client:
        job = client.export_candidate(job_id, number)
        if not session.json:
            console.print(f"{job.id} exports candidate {number} of {job_id}", markup=False, soft_wrap=True)
        try:
            job = client.wait(job.id)
            if job.status != "succeeded":
                show_job_error(job)
                raise typer.Exit(ExitCode.FAILED)
            with _bars(console, quiet=session.json) as on_bytes:
                paths = client.download(job.id, folder, on_bytes=on_bytes)
        except KeyboardInterrupt:
            Console(stderr=True, highlight=False).print("Stopped; the same command goes on from here.")
            raise typer.Exit(ExitCode.DETACHED) from None
        found = client.certificate(job.id)
    if session.json:
        session.write({"job": job.id, "files": [str(path) for path in paths], "certificate": found})
    else:
        for path in paths:
            console.print(str(path), markup=False, soft_wrap=True)
        if found is not None:
            console.print(render(found))
    raise typer.Exit(outcome(job))


@contextmanager
def _bars(console: Console, *, quiet: bool) -> Iterator[Callable[[Artifact, int], None] | None]:
    """A bar for each file on a terminal; nothing in a pipe."""
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def on_bytes(artifact: Artifact, present: int) -> None:
            if artifact.name not in tasks:
                tasks[artifact.name] = bars.add_task(escape(artifact.name), total=artifact.size)
            bars.update(tasks[artifact.name], completed=present)

        yield on_bytes
