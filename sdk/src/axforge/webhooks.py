"""The server's webhooks: `Client.webhooks`.

A receiver verifies what it is sent with the library `standardwebhooks`, see docs/webhooks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from axforge.answers import checked_id, read
from axforge.paging import pages
from axforge.transport import Transport
from axforge.types import Webhook, WebhookDelivery, WebhookDeliveryList, WebhookList, WebhookWithSecret

PATH = "/v1/webhooks"


class Webhooks:
    """Addresses of yours that are told of events. Raises what `Client` does."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, url: str, *, events: Sequence[str] | None = None, description: str = ""
    ) -> WebhookWithSecret:
        """Tell `url` of these events; by default when a job has succeeded, failed or was cancelled.

        The answer has the `secret` that verifies the signatures. It is shown once: where the answer was lost
        and had to be asked for again it is None, and `rotate` gives another.
        """
        document: dict[str, Any] = {"url": url, "description": description}
        if events is not None:
            document["events"] = list(events)
        return read(WebhookWithSecret, self._transport.create(PATH, json=document))

    def list(self) -> Iterator[Webhook]:
        """All webhooks, the newest first."""
        for page in pages(self._transport, WebhookList, PATH):
            yield from page.data

    def get(self, webhook_id: str) -> Webhook:
        """The webhook as it is now."""
        return read(Webhook, self._transport.request("GET", _path(webhook_id)))

    def change(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        description: str | None = None,
        enabled: bool | None = None,
    ) -> Webhook:
        """Change what is given. `enabled=True` sends what was held back and forgives failures."""
        given = {"url": url, "events": events, "description": description, "enabled": enabled}
        document = {name: value for name, value in given.items() if value is not None}
        response = self._transport.request("PATCH", _path(webhook_id), json=document, idempotent=True)
        return read(Webhook, response)

    def remove(self, webhook_id: str) -> None:
        """Forget the webhook and the log of its deliveries."""
        self._transport.request("DELETE", _path(webhook_id))

    def rotate(self, webhook_id: str) -> WebhookWithSecret:
        """Get a new secret; messages are also signed with the old one until `previous_secret_until`."""
        return read(WebhookWithSecret, self._transport.request("POST", f"{_path(webhook_id)}/rotate"))

    def test(self, webhook_id: str) -> WebhookDelivery:
        """Send a message of type `webhook.test`; `deliveries` tells how it went."""
        return read(WebhookDelivery, self._transport.request("POST", f"{_path(webhook_id)}/test"))

    def deliveries(
        self, webhook_id: str, *, status: str | None = None, limit: int | None = None
    ) -> Iterator[WebhookDelivery]:
        """What was sent to the webhook, the newest first; at most `limit`."""
        path = f"{_path(webhook_id)}/deliveries"
        for page in pages(self._transport, WebhookDeliveryList, path, params={"status": status}, limit=limit):
            yield from page.data

    def replay(self, webhook_id: str, delivery_id: str) -> WebhookDelivery:
        """Send a message again now, under the same id."""
        path = f"{_path(webhook_id)}/deliveries/{checked_id(delivery_id, 'a delivery')}/replay"
        return read(WebhookDelivery, self._transport.request("POST", path, idempotent=True))


def _path(webhook_id: str) -> str:
    return f"{PATH}/{checked_id(webhook_id, 'a webhook')}"
