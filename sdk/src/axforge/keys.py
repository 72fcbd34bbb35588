"""The server's API keys: `Client.keys`. They want a key with the scope `admin`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from axforge.answers import checked_id, read
from axforge.paging import pages
from axforge.transport import Transport
from axforge.types import ApiKey, ApiKeyList, CreatedApiKey

PATH = "/v1/keys"


class Keys:
    """Keys of your own tenant. Raises what `Client` does."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, name: str, scopes: Sequence[str], *, expires_at: datetime | None = None
    ) -> CreatedApiKey:
        """A key for `scopes` (jobs, artifacts, uploads, webhooks, admin). The answer has its `secret`.

        The secret is shown once: it is None where the answer was lost and had to be asked for again. Revoke
        such a key and create another. From the first key on, every request needs one.
        """
        document: dict[str, Any] = {"name": name, "scopes": list(scopes)}
        if expires_at is not None:
            document["expires_at"] = expires_at.isoformat()
        return read(CreatedApiKey, self._transport.create(PATH, json=document))

    def list(self) -> Iterator[ApiKey]:
        """All keys, revoked ones too, the newest first."""
        for page in pages(self._transport, ApiKeyList, PATH):
            yield from page.data

    def get(self, key_id: str) -> ApiKey:
        """What a key may be used for, and when it was."""
        return read(ApiKey, self._transport.request("GET", _path(key_id)))

    def revoke(self, key_id: str) -> None:
        """The next request with the key is refused; doing it again changes nothing."""
        self._transport.request("DELETE", _path(key_id))


def _path(key_id: str) -> str:
    return f"{PATH}/{checked_id(key_id, 'a key')}"
