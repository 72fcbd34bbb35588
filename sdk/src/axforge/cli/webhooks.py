"""webhooks add, list, remove, enable, rotate, test, deliveries, replay."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from axforge.cli.session import Session, connected
from axforge.types import Webhook, WebhookDelivery, WebhookWithSecret

app = typer.Typer(no_args_is_help=True, help="Have an address of yours told when jobs end.")
WebhookArgument = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id of the webhook.")]


@app.command()
@connected
def add(
    session: Session,
    url: Annotated[str, typer.Argument(metavar="URL", help="Receives the messages.")],
    events: Annotated[
        list[str] | None,
        typer.Option("--event", help="Such as job.failed; may be repeated. Default: every end of a job."),
    ] = None,
    description: Annotated[str, typer.Option(help="For yourself.")] = "",
) -> None:
    """Create a webhook, and show the secret that verifies its messages."""
    with session.client() as client:
        _show_secret(session, client.webhooks.create(url, events=events, description=description))


@app.command("list")
@connected
def list_webhooks(session: Session) -> None:
    """List webhooks, the newest first."""
    with session.client() as client:
        found = list(client.webhooks.list())
    if session.json:
        for webhook in found:
            session.write(webhook.model_dump(mode="json"))
        return
    table = Table(box=None)
    for heading in ("webhook", "url", "state", "events", "description"):
        table.add_column(heading, overflow="fold")
    for webhook in found:
        cells = (webhook.url, _state(webhook), ", ".join(webhook.events), webhook.description)
        table.add_row(webhook.id, *map(escape, cells))
    session.console().print(table)


@app.command()
@connected
def remove(
    session: Session,
    webhook_id: WebhookArgument,
) -> None:
    """Remove a webhook and the log of its deliveries."""
    with session.client() as client:
        client.webhooks.remove(webhook_id)
    if not session.json:
        session.console().print(f"{webhook_id} removed", markup=False)


@app.command()
@connected
def enable(
    session: Session,
    webhook_id: WebhookArgument,
) -> None:
    """Enable a webhook that was disabled; what was held back is sent."""
    with session.client() as client:
        webhook = client.webhooks.change(webhook_id, enabled=True)
    if session.json:
        session.write(webhook.model_dump(mode="json"))
    else:
        session.console().print(f"{webhook.id} {_state(webhook)}", markup=False)


@app.command()
@connected
def rotate(
    session: Session,
    webhook_id: WebhookArgument,
) -> None:
    """Get a new secret; for a while messages are signed with the old one too."""
    with session.client() as client:
        _show_secret(session, client.webhooks.rotate(webhook_id))


@app.command("test")
@connected
def try_out(
    session: Session,
    webhook_id: WebhookArgument,
) -> None:
    """Send a message that says nothing."""
    with session.client() as client:
        _show_sent(session, client.webhooks.test(webhook_id))


@app.command()
@connected
def deliveries(
    session: Session,
    webhook_id: WebhookArgument,
    status: Annotated[str | None, typer.Option(help="pending, held, delivered or exhausted.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """List what was sent to a webhook, the newest first."""
    with session.client() as client:
        found = list(client.webhooks.deliveries(webhook_id, status=status, limit=limit))
    if session.json:
        for delivery in found:
            session.write(delivery.model_dump(mode="json"))
        return
    table = Table(box=None)
    for heading in ("delivery", "type", "job", "status", "attempts", "next", "last answer"):
        table.add_column(heading, overflow="fold")
    for delivery in found:
        following = f"{delivery.next_attempt_at:%m-%d %H:%M:%S}" if delivery.next_attempt_at else ""
        cells = (delivery.type, delivery.job_id or "", delivery.status, str(len(delivery.attempts)))
        table.add_row(delivery.id, *map(escape, (*cells, following, _last_answer(delivery))))
    session.console().print(table)


@app.command()
@connected
def replay(
    session: Session,
    webhook_id: WebhookArgument,
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY", help="Id of the delivery.")],
) -> None:
    """Send a message again now, under the same id."""
    with session.client() as client:
        _show_sent(session, client.webhooks.replay(webhook_id, delivery_id))


def _show_secret(session: Session, webhook: WebhookWithSecret) -> None:
    if session.json:
        session.write(webhook.model_dump(mode="json"))
        return
    console = session.console()
    console.print(f"{webhook.id} {_state(webhook)}", markup=False)
    console.print(f"secret: {webhook.secret}", markup=False, soft_wrap=True)
    console.print("Keep the secret: it is not shown again.", style="yellow")
    if webhook.previous_secret_until is not None:
        console.print(f"The one before is good until {webhook.previous_secret_until:%Y-%m-%d %H:%M:%S %Z}.")


def _show_sent(session: Session, delivery: WebhookDelivery) -> None:
    if session.json:
        session.write(delivery.model_dump(mode="json"))
        return
    session.console().print(f"{delivery.id} {delivery.status}", markup=False)
    follow = f"See how it goes: axforge webhooks deliveries {delivery.webhook_id}"
    session.console().print(follow, markup=False, style="dim")


def _state(webhook: Webhook | WebhookWithSecret) -> str:
    if not webhook.enabled:
        return f"disabled ({webhook.disabled_reason})" if webhook.disabled_reason else "disabled"
    return "failing" if webhook.failing_since else "enabled"


def _last_answer(delivery: WebhookDelivery) -> str:
    if not delivery.attempts:
        return ""
    last = delivery.attempts[-1]
    return last.error or f"{last.status_code} in {last.duration_ms} ms"
