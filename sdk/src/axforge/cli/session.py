"""What every command that talks to a server needs: address, key, and the form of the output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console

from axforge.cli.progress import write_json
from axforge.client import DEFAULT_SERVER, Client

PIPE_WIDTH = 160
ServerOption = Annotated[
    str | None,
    typer.Option("--server", help=f"Address of the server; default: AXFORGE_URL, else {DEFAULT_SERVER}."),
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key", help="Your key; default: AXFORGE_API_KEY.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON lines instead of text.")]


@dataclass
class Session:
    """The options that may stand before the command or behind it; those behind it win."""

    server: str | None = None
    api_key: str | None = field(default=None, repr=False)
    json: bool = False

    def client(self) -> Client:
        """A client of the chosen server."""
        return Client(self.server, self.api_key)

    def console(self) -> Console:
        """Standard output; wide enough for a table where it is no terminal that wraps lines."""
        console = Console(highlight=False)
        return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)

    def write(self, document: dict[str, Any]) -> None:
        """One line of JSON."""
        write_json(document, self.console())


def session_of(ctx: typer.Context, server: str | None, api_key: str | None, json: bool) -> Session:
    """The session of a command, with what was given behind the command's name filled in."""
    session = ctx.find_root().obj
    assert isinstance(session, Session)
    session.server = server or session.server
    session.api_key = api_key or session.api_key
    session.json = json or session.json
    return session
