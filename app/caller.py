"""Who makes a request."""

from __future__ import annotations

from dataclasses import dataclass

from models.api_key import Scope


@dataclass(frozen=True)
class Caller:
    """A tenant's key, or nobody in particular (`key_id` is None) while the service has no keys.

    `request_id` and `address` are for the audit trail.
    """

    tenant: str
    key_id: str | None
    scopes: frozenset[Scope]
    request_id: str | None = None
    address: str | None = None
