"""`axforge keys`: API keys of any tenant, for who runs the service and can reach its database."""

from __future__ import annotations

import json as json_language
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from app.caller import Caller
from app.keys import repository, service
from app.keys.schemas import NewApiKey
from migrations import upgrade
from models.api_key import ApiKey, Scope
from models.base import utc_now
from models.database import Database
from models.job import DEFAULT_TENANT
from models.settings import Settings

TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
EVERY_SCOPE = "all"

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of an embedded server; default: AXFORGE_DATA_DIR or ./data."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
keys = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="API keys, in the database of AXFORGE_DATABASE_URL, or of an embedded server's folder.",
)


@keys.command("create")
def create(
    scopes: Annotated[
        str, typer.Option(help=f"What it may be used for: {', '.join(Scope)}, by commas; or {EVERY_SCOPE}.")
    ],
    name: Annotated[str, typer.Option(help="What it is for, such as ci.")],
    tenant: Annotated[str, typer.Option(help="Whose key it is.")] = DEFAULT_TENANT,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0, help="It opens nothing after that; default: it does not expire.")
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Create a key. Its secret goes to standard output and is shown this once."""
    if not TENANT.fullmatch(tenant):
        _refuse("--tenant: give up to 64 letters, digits and ._- such as team-a.")
    wanted = _wanted(scopes, name, expires_in_days)
    with _database(data_dir) as database, database.transaction() as session:
        created = service.create(session, _operator(tenant), wanted)
    if json:
        typer.echo(created.model_dump_json())
        return
    typer.echo(f"{created.id} of tenant {tenant}; this is its secret, shown only now:", err=True)
    typer.echo(created.secret)


@keys.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List keys, revoked ones too."""
    with _database(data_dir) as database, database.session() as session:
        rows = repository.of_tenants(session, tenant)
    for row in rows:
        typer.echo(json_language.dumps(_document(row)) if json else _line(row))


@keys.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, key_...")], data_dir: DataDir = None
) -> None:
    """Let a key open nothing from now on; doing it again changes nothing."""
    with _database(data_dir) as database:
        with database.reading() as connection:
            row = repository.of_any_tenant(connection, key_id)
        if row is None:
            _refuse(f"There is no API key {key_id!r}; see `axforge keys list`.")
        service.revoke(database, _operator(row.tenant), key_id)
    typer.echo(f"{key_id} is revoked.", err=True)


def _wanted(scopes: str, name: str, expires_in_days: float | None) -> NewApiKey:
    named = list(Scope) if scopes == EVERY_SCOPE else [scope.strip() for scope in scopes.split(",")]
    expires_at = None if expires_in_days is None else utc_now() + timedelta(days=expires_in_days)
    try:
        return NewApiKey.model_validate({"name": name, "scopes": named, "expires_at": expires_at})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]).replace("_at", "-in-days")
        _refuse(f"--{option}: {first['msg'].removeprefix('Value error, ')}.")


def _operator(tenant: str) -> Caller:
    """Who reaches the database may do anything; the audit trail shows neither key nor address."""
    return Caller(tenant, None, frozenset(Scope))


@contextmanager
def _database(data_dir: Path | None) -> Iterator[Database]:
    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    database = Database(settings.database)
    try:
        if settings.database_url is None:  # the embedded server's own: it may not have been started yet
            upgrade(settings.database)
        yield database
    except DBAPIError as error:
        _refuse(
            f"The database does not answer, or its tables are not there ({type(error.orig).__name__}). "
            "Check AXFORGE_DATABASE_URL; `python -m migrations` makes the tables."
        )
    finally:
        database.close()


def _document(row: ApiKey) -> dict[str, Any]:
    moments = {
        name: moment.isoformat() if moment else None
        for name in ("created_at", "last_used_at", "expires_at", "revoked_at")
        for moment in [getattr(row, name)]
    }
    return {
        "id": row.id,
        "tenant": row.tenant,
        "name": row.name,
        "scopes": row.scopes,
        "prefix": row.prefix,
        **moments,
    }


def _line(row: ApiKey) -> str:
    state = f"revoked {row.revoked_at:%Y-%m-%d}" if row.revoked_at else "active"
    if not row.revoked_at and row.expires_at:
        state = f"expires {row.expires_at:%Y-%m-%d}" if row.expires_at > utc_now() else "expired"
    used = f"used {row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never used"
    return f"{row.id}  {row.tenant}  {row.name}  {','.join(row.scopes)}  {state}, {used}"


def _refuse(reason: str) -> NoReturn:
    typer.echo(reason, err=True)
    raise typer.Exit(2)
