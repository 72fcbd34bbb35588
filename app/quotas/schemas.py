"""Quotas as the API shows them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.schemas import Resource


class Quota(Resource):
    """One limit, and what is used of it."""

    limit: int | float | None = Field(description="None is without limit.")
    used: int | float


class Quotas(Resource):
    """What the caller may have, and has."""

    object: Literal["quota"]
    queued_jobs: Quota
    running_jobs: Quota = Field(description="More than these wait in the queue.")
    stored_bytes: Quota = Field(description="Uploads and artifacts together.")
    compute_minutes: Quota = Field(description="Of runs within `window_days`.")
    window_days: int
    waiting_for: Literal["compute_minutes", "running_jobs"] | None = Field(
        description="The limit that keeps queued jobs from being begun; None: nothing but a free worker."
    )
