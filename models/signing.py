"""Webhook secrets: derived from the service's key, so that nothing of them is in the database."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass

PREFIX = "whsec_"


@dataclass(frozen=True)
class NewSecret:
    """A secret to show once, and what is stored of it."""

    secret: str
    salt: str
    check: str


def new_secret(key: str, webhook_id: str) -> NewSecret:
    """A fresh secret in the form of Standard Webhooks."""
    salt = secrets.token_hex(16)
    secret = derive_secret(key, webhook_id, salt)
    return NewSecret(secret, salt, secret_check(secret))


def derive_secret(key: str, webhook_id: str, salt: str) -> str:
    """The secret of that salt: HMAC-SHA256 under the service's key (as HKDF-Expand, RFC 5869, 2.3)."""
    message = f"axforge webhook secret\0{webhook_id}\0{salt}\1"
    digest = hmac.new(key.encode(), message.encode(), hashlib.sha256).digest()
    return PREFIX + base64.b64encode(digest).decode()


def secret_check(secret: str) -> str:
    """A short digest by which another secret is recognised as such; it tells nothing of this one."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]
