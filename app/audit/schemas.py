"""Audit events as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.schemas import Resource


class AuditEvent(Resource):
    """Something that was done in the tenant's name, or refused."""

    id: str
    object: Literal["audit_event"]
    action: str = Field(
        description="`key.created`, `key.revoked`, `job.created`, `job.cancelled`, `job.deleted`, "
        "`upload.created`, `upload.deleted`, `artifact.downloaded` or `access.denied`.",
        examples=["job.created"],
    )
    subject: str | None = Field(description="Id of what it was done to.", examples=["job_0190…"])
    key_id: str | None = Field(description="The key that was used; none before there were keys.")
    request_id: str | None
    address: str | None = Field(description="Where the request came from.")
    at: datetime
    data: dict[str, Any]


class AuditEventList(Resource):
    """A page of audit events, the newest first."""

    object: Literal["list"]
    data: list[AuditEvent]
    has_more: bool
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")
