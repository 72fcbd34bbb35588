"""capabilities, version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import typer
from rich.markup import escape
from rich.table import Table

from axforge._version import __version__
from axforge.cli.session import JsonOption, Session, connected, session_of
from axforge.types import Capabilities


@connected
def capabilities(
    session: Session,
) -> None:
    """Show what the server can do. With --json, the JSON schemas of every option as well."""
    with session.client() as client:
        found = client.capabilities()
    if session.json:
        session.write(found.model_dump(mode="json"))
        return
    console = session.console()
    console.print(_overview(found))
    console.print(_approximations(found))


def version(ctx: typer.Context, json: JsonOption = False) -> None:
    """Show the versions of this client and of the server distribution, if it is installed."""
    session = session_of(ctx, None, None, json)
    found = {"axforge": __version__}
    try:
        found["axforge-server"] = version_of("axforge-server")
    except PackageNotFoundError:  # the client alone is a complete installation
        found["axforge-server"] = "not installed"
    if session.json:
        session.write(found)
        return
    for name, number in found.items():
        session.console().print(f"{name} {number}", markup=False)


def _overview(found: Capabilities) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    rows = {
        "server": [found.version],
        "tasks": found.tasks,
        "metrics": found.metrics,
        "architectures": found.architectures,
        "strategies": [strategy.name for strategy in found.strategies],
        "exports": found.exports,
        "runtimes": found.runtimes,
        "devices": found.devices,
        "sources": found.sources,
    }
    for name, values in rows.items():
        table.add_row(name, escape(", ".join(values)))
    return table


def _approximations(found: Capabilities) -> Table:
    table = Table(title="Approximations", title_justify="left")
    for heading in ("name", "element", "gains", "takes effect in", "what it does"):
        table.add_column(heading, overflow="fold")
    for each in found.approximations:
        cells = (each.name, each.element, ", ".join(each.gains), ", ".join(each.runtimes), each.description)
        table.add_row(*map(escape, cells))
    return table
