"""A key with which a program calls the API in a tenant's name. The secret itself is stored nowhere."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum

from sqlalchemy import JSON, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, new_id, utc_now

SECRET = re.compile(r"axf_([0-9a-f]{28})_[A-Za-z0-9_-]{43}")
"""What a secret looks like: fixed letters that scanners can search for, the key's id, 256 random bits."""


class Scope(StrEnum):
    """What a key may be used for. None includes another."""

    JOBS = "jobs"
    ARTIFACTS = "artifacts"
    UPLOADS = "uploads"
    WEBHOOKS = "webhooks"
    ADMIN = "admin"


class ApiKey(Base):
    """A revoked key keeps its row: that there was ever a key is what keeps the door shut."""

    __tablename__ = "api_key"
    __table_args__ = (Index("ix_api_key_list", "tenant", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("key"))
    tenant: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(100))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    prefix: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
