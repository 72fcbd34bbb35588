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
    created_at: datetime


class CandidateList(Resource):
    """A page of candidates, by number."""

    object: Literal["list"]
    data: list[Candidate]
    has_more: bool
