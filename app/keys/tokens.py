"""Secrets of keys: made, told apart, compared.

A secret is 256 random bits, so nobody can try them all, and its plain SHA-256 gives nothing away. The slow
hashes that protect passwords make up for secrets that people choose; here they would only slow every request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from models.api_key import SECRET

RANDOM_BYTES = 32
SHOWN = len("axf_") + 28 + len("_") + 4


def mint(key_id: str) -> str:
    """A new secret for the key `key_...`."""
    return f"axf_{key_id.removeprefix('key_')}_{secrets.token_urlsafe(RANDOM_BYTES)}"


def prefix(secret: str) -> str:
    """The part that may be shown: enough to recognise the secret, nothing to use it with."""
    return secret[:SHOWN]


def key_id(secret: str) -> str | None:
    """The id of the key that the secret claims to be of; None for what is no secret of this service."""
    match = SECRET.fullmatch(secret)
    return f"key_{match.group(1)}" if match else None


def digest(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_same(secret: str, stored: str) -> bool:
    """Whether `stored` is the digest of the secret, found out in the same time either way."""
    return hmac.compare_digest(digest(secret), stored)
