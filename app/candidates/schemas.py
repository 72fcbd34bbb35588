"""Candidates as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.schemas import Resource


class Candidate(Resource):
    """A recipe that the job tried, with what was measured."""

    object: Literal["candidate"]
    job_id: str
    number: int
    stage: str
    recipe: dict[str, Any]
    measurements: dict[str, Any]
    accepted: bool
    reason: str = Field(description="Why it was accepted or refused.")
    on_front: bool = Field(
        description="No other measured candidate so far is as accurate, as small and as fast, and better in "
        "one of these. False of candidates whose time is only predicted."
    )
    export_job_id: str | None = Field(description="The job that exports it, where that was asked for.")
    created_at: datetime


class CandidateList(Resource):
    """A page of candidates, by number."""

    object: Literal["list"]
    data: list[Candidate]
    has_more: bool
