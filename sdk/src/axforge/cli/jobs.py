"""submit, status, events, list, cancel, delete."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from axforge.cli.certificate import render
from axforge.cli.exits import ExitCode
from axforge.cli.following import follow, show_job_error
from axforge.cli.progress import duration
from axforge.cli.session import Session, connected
from axforge.client import Client
from axforge.errors import AxforgeError
from axforge.specs import LocalFiles
from axforge.types import Event, Job, Plan

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]
STATUS_STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


@connected
def submit(
    session: Session,
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="Job spec, YAML or JSON.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress; exit 0 constraints met, 3 not met, 1 failed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate and plan; create nothing.")] = False,
    upload: Annotated[
        bool | None,
        typer.Option(
            "--upload/--no-upload",
            help="Send the files that `path` names, or leave `path` as a path of the server's machine. "
            "Default: the absolute path for a server on this machine, otherwise refused.",
            show_default=False,
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key and spec never create a second job.")
    ] = None,
) -> None:
    """Create a job from a spec. Relative paths in it start at the spec's folder."""
    local_files: LocalFiles = "auto" if upload is None else "upload" if upload else "keep"
    with session.client() as client:
        if dry_run:
            _show_plan(session, client.create_job(spec, dry_run=True, local_files=local_files))
            return
        job = client.create_job(spec, local_files=local_files, idempotency_key=idempotency_key)
        if wait:
            if not session.json:
                session.console().print(f"{job.id} {job.status}", markup=False)
            follow(session, client, job.id)
        _show_created(session, job)


@connected
def status(
    session: Session,
    job_id: JobArgument,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress to the end; exit status as for submit --wait.")
    ] = False,
    certificate: Annotated[bool, typer.Option("--certificate", help="Show the certificate.")] = False,
) -> None:
    """Show where a job stands."""
    with session.client() as client:
        if wait:
            follow(session, client, job_id)
        if certificate:
            _show_certificate(session, client, job_id)
            return
        job = client.job(job_id)
    if session.json:
        session.write(job.model_dump(mode="json"))
    else:
        _show_job(session, job)


@connected
def events(
    session: Session,
    job_id: JobArgument,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is done.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only events behind this one.")] = 0,
) -> None:
    """Show what happened to a job."""
    with session.client() as client:
        found: Iterable[Event] = (
            client.stream_events(job_id, after) if following else client.events(job_id, after)
        )
        try:
            for event in found:
                _show_event(session, event)
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.DETACHED) from None


@connected
def list_jobs(
    session: Session,
    statuses: Annotated[
        list[str] | None, typer.Option("--status", help="Only jobs of this status; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """List jobs, the newest first."""
    with session.client() as client:
        found = list(client.jobs(status=statuses, name=name, limit=limit))
    if session.json:
        for job in found:
            session.write(job.model_dump(mode="json"))
    else:
        session.console().print(_table(found))


@connected
def cancel(
    session: Session,
    job_id: JobArgument,
) -> None:
    """Stop a job. What it has stored stays."""
    with session.client() as client:
        job = client.cancel(job_id)
    if session.json:
        session.write(job.model_dump(mode="json"))
    else:
        state = job.status if job.done else f"{job.status}, stops at its next step"
        session.console().print(f"{job.id} {state}", markup=False)


@connected
def delete(
    session: Session,
    job_id: JobArgument,
) -> None:
    """Delete a job that is done, with its events, candidates and files."""
    with session.client() as client:
        client.delete(job_id)
    if session.json:
        session.write({"id": job_id, "deleted": True})
    else:
        session.console().print(f"{job_id} deleted", markup=False)


def _show_created(session: Session, job: Job) -> None:
    if session.json:
        session.write(job.model_dump(mode="json"))
        return
    console = session.console()
    console.print(f"{job.id} {job.status}", markup=False)
    console.print(f"Watch it: axforge status {job.id} --wait", markup=False, style="dim")


def _show_plan(session: Session, plan: Plan) -> None:
    if session.json:
        session.write(plan.model_dump(mode="json"))
        return
    console = session.console()
    console.print("The spec is valid; nothing was created.", style="green")
    console.print(f"stages: {' > '.join(plan.stages)}", markup=False)
    console.print(f"approximations: {', '.join(plan.approximations)}", markup=False)
    console.print(f"ends with the best so far after {plan.max_minutes:g} minutes", markup=False)
    for warning in plan.warnings:
        console.print(f"note: {warning}", markup=False, style="yellow")


def _show_certificate(session: Session, client: Client, job_id: str) -> None:
    certificate = client.certificate(job_id)
    if certificate is None:
        raise AxforgeError(f"{job_id} has no certificate (yet); see axforge status {job_id}")
    if session.json:
        session.write(certificate)
    else:
        session.console().print(render(certificate))


def _show_job(session: Session, job: Job) -> None:
    table = Table(box=None, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("job", job.id)
    table.add_row("name", escape(job.name))
    table.add_row("status", _status(job))
    if job.progress is not None and not job.done:
        table.add_row("progress", escape(_progress(job)))
    if job.constraints_met is not None:
        table.add_row("constraints", "met" if job.constraints_met else "not met")
    table.add_row("created", f"{job.created_at:%Y-%m-%d %H:%M:%S %Z}")
    if job.finished_at is not None:
        table.add_row("finished", f"{job.finished_at:%Y-%m-%d %H:%M:%S %Z}")
    for artifact in job.artifacts:
        table.add_row("file", escape(f"{artifact.name} ({artifact.size:,} bytes)"))
    session.console().print(table)
    if job.error is not None:
        show_job_error(job)


def _show_event(session: Session, event: Event) -> None:
    if session.json:
        session.write(event.model_dump(mode="json"))
        return
    style = {"warning": "yellow", "error": "red"}.get(event.level, "")
    line = f"{event.created_at.astimezone():%H:%M:%S} {event.type}: {event.message}"
    session.console().print(line, markup=False, style=style, soft_wrap=True)


def _table(jobs: list[Job]) -> Table:
    table = Table(box=None)
    for heading in ("job", "name", "status", "progress", "constraints", "created"):
        table.add_column(heading, no_wrap=heading in {"job", "status"}, overflow="fold")
    for job in jobs:
        met = {True: "met", False: "not met", None: ""}[job.constraints_met]
        progress = "" if job.done else escape(_progress(job))
        created = f"{job.created_at.astimezone():%Y-%m-%d %H:%M}"
        table.add_row(job.id, escape(job.name), _status(job), progress, met, created)
    return table


def _status(job: Job) -> str:
    style = STATUS_STYLES.get(job.status)
    words = f"{job.status}, cancelling" if job.cancel_requested and not job.done else job.status
    return f"[{style}]{escape(words)}[/]" if style else escape(words)


def _progress(job: Job) -> str:
    progress = job.progress
    if progress is None or progress.stage is None:
        return ""
    words = progress.stage
    if progress.step is not None:
        words += f" {progress.step}" + (f"/{progress.total}" if progress.total else "")
    if progress.eta_seconds is not None:
        words += f", {duration(progress.eta_seconds)} left"
    return words
