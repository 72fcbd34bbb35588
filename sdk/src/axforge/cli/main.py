"""The `axforge` command: its options, its commands, and its errors."""

from __future__ import annotations

from typing import Any

import typer

from axforge.cli import about, files, jobs, webhooks
from axforge.cli.exits import exit_code, show_error
from axforge.cli.plugins import PluginGroup
from axforge.cli.session import JsonOption, KeyOption, ServerOption, Session
from axforge.errors import AxforgeError


class AxforgeGroup(PluginGroup):
    """Tells errors in one way, whichever command they come from."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AxforgeError as error:
            show_error(error, json=isinstance(ctx.obj, Session) and ctx.obj.json)
            raise typer.Exit(exit_code(error)) from None


app = typer.Typer(
    cls=AxforgeGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make transformers smaller and faster under your constraints, with a certificate.",
)


@app.callback()
def options(
    ctx: typer.Context, server: ServerOption = None, api_key: KeyOption = None, json: JsonOption = False
) -> None:
    """Options that every command which talks to a server also takes behind its name."""
    ctx.obj = Session(server=server, api_key=api_key, json=json)


app.command("submit")(jobs.submit)
app.command("status")(jobs.status)
app.command("events")(jobs.events)
app.command("list")(jobs.list_jobs)
app.command("cancel")(jobs.cancel)
app.command("delete")(jobs.delete)
app.command("download")(files.download)
app.command("report")(files.report)
app.command("export")(files.export)
app.add_typer(webhooks.app, name="webhooks")
app.command("capabilities")(about.capabilities)
app.command("version")(about.version)


def main() -> None:
    """Entry point of the command."""
    app(prog_name="axforge")
