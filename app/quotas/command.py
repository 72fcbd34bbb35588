"""`axforge quotas`: what tenants may have, for those who run the service."""

from __future__ import annotations

from typing import Annotated

import typer

from app.quotas.service import describe
from models import quotas
from models.database import Database
from models.quota import UNLIMITED
from models.settings import Settings

DEFAULT = "default"
NO_LIMIT = "unlimited"
HELP = f"A number, `{NO_LIMIT}`, or `{DEFAULT}` for what the service's settings say."

app = typer.Typer(
    no_args_is_help=True,
    help="See and set what tenants may have, in the database of AXFORGE_DATABASE_URL or AXFORGE_DATA_DIR.",
)

Tenant = Annotated[str, typer.Argument(help="Name of the tenant.")]


@app.command("set")
def set_quotas(
    tenant: Tenant,
    max_queued: Annotated[str | None, typer.Option(help=f"Jobs that wait. {HELP}")] = None,
    max_running: Annotated[str | None, typer.Option(help=f"Jobs that run at a time. {HELP}")] = None,
    max_bytes: Annotated[str | None, typer.Option(help=f"Bytes of uploads and artifacts. {HELP}")] = None,
    max_minutes: Annotated[
        str | None, typer.Option(help=f"Minutes of runs within {quotas.WINDOW_DAYS} days. {HELP}")
    ] = None,
) -> None:
    """Set a tenant's own limits; those that are not named stay as they are."""
    given = {
        "queued_jobs": _number("--max-queued", max_queued),
        "running_jobs": _number("--max-running", max_running, least=1),
        "stored_bytes": _number("--max-bytes", max_bytes),
        "compute_minutes": _number("--max-minutes", max_minutes, whole=False),
    }
    named = {
        name: value
        for (name, value), text in zip(
            given.items(), (max_queued, max_running, max_bytes, max_minutes), strict=True
        )
        if text is not None
    }
    if not named:
        raise typer.BadParameter("Name at least one limit, such as --max-queued 10.")
    database = Database(Settings().database)
    try:
        with database.transaction() as session:
            quotas.set_limits(session, tenant, **named)
    finally:
        database.close()
    show(tenant)


@app.command()
def show(tenant: Tenant) -> None:
    """A tenant's limits and what it uses of them."""
    settings = Settings()
    database = Database(settings.database)
    try:
        with database.session() as session:
            found = describe(session, tenant, settings)
    finally:
        database.close()
    for name in quotas.NAMES:
        quota = getattr(found, name)
        limit = NO_LIMIT if quota.limit is None else f"{quota.limit:,.10g}"
        typer.echo(f"{name:<16} {quota.used:>20,.10g} of {limit}")
    if found.waiting_for is not None:
        typer.echo(f"queued jobs wait for {found.waiting_for}")


def _number(option: str, text: str | None, *, least: int = 0, whole: bool = True) -> float | None:
    if text is None or text == DEFAULT:
        return None
    if text == NO_LIMIT:
        return UNLIMITED
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = -1
    if not least <= value < 2**63:
        kind = "a whole number" if whole else "a number"
        raise typer.BadParameter(
            f"{text!r} is not {kind} of at least {least}, `{NO_LIMIT}` or `{DEFAULT}`.", param_hint=option
        )
    return value
