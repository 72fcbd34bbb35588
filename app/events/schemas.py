"""Events as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.jobs.schemas import Progress
from app.schemas import Resource
from models.job import JobStatus


class Event(Resource):
    """Something that happened to a job."""

    id: int = Field(description="Rises with time; `after` and `Last-Event-ID` resume behind it.")
    object: Literal["event"]
    job_id: str
    attempt: int
    type: str = Field(examples=["job.created"])
    level: str = Field(examples=["info", "warning", "error"])
    message: str
    data: dict[str, Any]
    created_at: datetime


class EventList(Resource):
    """A page of events, the oldest first."""

    object: Literal["list"]
    data: list[Event]
    has_more: bool


class ProgressMessage(Resource):
    """Data of a `progress` message of the stream."""

    status: JobStatus
    attempt: int
    progress: Progress | None


class StreamEnd(Resource):
    """Data of the `end` message: the job has ended, nothing more will come."""

    status: JobStatus
