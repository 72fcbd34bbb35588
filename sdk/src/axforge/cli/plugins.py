"""Commands that the server distribution adds: found by entry point, loaded only when they run."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

import typer
import typer.core
from rich.console import Console

from axforge.cli.exits import ExitCode

GROUP = "axforge.commands"
KNOWN = {
    "serve": ("Run the service on this machine.", "axforge-server[embedded]"),
    "gc": ("Clear away what has expired on the service.", "axforge-server"),
    "keys": ("Create, list and revoke API keys, for who runs the service.", "axforge-server"),
    "quotas": ("See and set what tenants may have.", "axforge-server"),
    "optimize": ("Optimize a model on this machine, without a server.", "axforge-server[worker]"),
}
"""Help and distribution of the commands that this client knows of, installed or not."""


class PluginGroup(typer.core.TyperGroup):
    """A group whose own commands are joined by those of `GROUP`.

    The help lists them without importing their modules, which may take long to load.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return own + sorted((set(KNOWN) | set(_installed())) - set(own))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What the help shows; `resolve_command` puts the real one in its place."""
        own = super().get_command(ctx, cmd_name)
        if own is None and cmd_name in set(KNOWN) | set(_installed()):
            return _placeholder(cmd_name)
        return own

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name is None or super().get_command(ctx, name) is not None:
            return name, command, rest
        return name, _load(name), rest


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(name: str) -> Any:
    point = _installed().get(name)
    if point is None:
        _say_missing(name, f"`axforge {name}` comes with the server, which is not installed here.")
    try:
        found = point.load()
    except ModuleNotFoundError as error:
        _say_missing(name, f"`axforge {name}` needs the module {error.name}, which is not installed here.")
    if isinstance(found, typer.Typer):  # a group of commands
        return typer.main.get_command(found)
    app = typer.Typer(add_completion=False)
    app.command(name)(found)
    return typer.main.get_command(app)


def _say_missing(name: str, what: str) -> NoReturn:
    distribution = KNOWN.get(name, ("", "axforge-server"))[1]
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{what}\nInstall it: pip install '{distribution}'", markup=False)
    raise typer.Exit(ExitCode.USAGE)


def _placeholder(name: str) -> Any:
    return typer.core.TyperCommand(name, help=KNOWN.get(name, (f"Added by {GROUP}.", ""))[0])
