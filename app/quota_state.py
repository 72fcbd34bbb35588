"""What a problem tells of a limit that a request met."""

from __future__ import annotations

from pydantic import BaseModel, Field


class QuotaState(BaseModel):
    """The limit that a request met."""

    name: str = Field(examples=["queued_jobs"])
    limit: int | float = Field(description="What the tenant may have.")
    used: int | float = Field(description="What it has.")
    asked: int | None = Field(None, description="What the request would have added, where that is known.")
