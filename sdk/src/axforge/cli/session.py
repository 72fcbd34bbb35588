"""What every command that talks to a server needs: address, key, and the form of the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

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


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of all that talk to a server, behind its own.

    The command is written with a `Session` as its first parameter, which is made of them.
    """

    @wraps(command)
    def with_options(
        ctx: typer.Context, server: str | None, api_key: str | None, json: bool, **own: Any
    ) -> None:
        command(session_of(ctx, server, api_key, json), **own)

    # What Typer reads: the wrapped function's parameters, but for the session, and the options.
    hints = get_type_hints(command, include_extras=True)
    _session, *own = signature(command).parameters.values()
    parameters = [
        Parameter("ctx", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *(each.replace(annotation=hints[each.name]) for each in own),
        Parameter("server", Parameter.POSITIONAL_OR_KEYWORD, annotation=ServerOption, default=None),
        Parameter("api_key", Parameter.POSITIONAL_OR_KEYWORD, annotation=KeyOption, default=None),
        Parameter("json", Parameter.POSITIONAL_OR_KEYWORD, annotation=JsonOption, default=False),
    ]
    del with_options.__wrapped__
    with_options.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


def session_of(ctx: typer.Context, server: str | None, api_key: str | None, json: bool) -> Session:
    """The session of a command, with what was given behind the command's name filled in."""
    session = ctx.find_root().obj
    assert isinstance(session, Session)
    session.server = server or session.server
    session.api_key = api_key or session.api_key
    session.json = json or session.json
    return session
