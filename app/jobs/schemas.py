"""Jobs as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.artifacts.schemas import Artifact
from app.schemas import Resource
from models.job import JobStatus
from models.spec import ApproximationName, StrategyName


class Progress(Resource):
    """How far a run is."""

    stage: str | None = Field(description="prepare, baseline, analyse, search, recover, export or certify.")
    step: int | None = Field(description="Steps of the stage that are done.")
    total: int | None = Field(description="Steps of the stage, where known.")
    fraction: float | None = Field(description="Of the whole run, from 0 to 1.")
    eta_seconds: float | None = Field(description="Until the run ends, at the rate so far.")
    message: str


class JobError(Resource):
    """Why a job failed, shaped like a problem."""

    code: str = Field(examples=["dataset_columns"])
    detail: str
    remedy: str | None
    pointer: str | None = Field(description="RFC 6901 pointer into the spec, if a field is to blame.")
    retryable: bool


class JobLinks(Resource):
    """Paths below the service's address."""

    self: str
    events: str
    candidates: str
    artifacts: str
    cancel: str


class Job(Resource):
    """A job: what was asked, how far it is, what came out."""

    id: str
    object: Literal["job"]
    name: str
    status: JobStatus
    done: bool = Field(description="The status will not change any more. Wait for this, not for a status.")
    constraints_met: bool | None = Field(description="Known once the job has succeeded.")
    cancel_requested: bool
    progress: Progress | None
    attempt: int = Field(description="Runs so far; a worker that is lost gives a new one.")
    error: JobError | None
    result: dict[str, Any] | None = Field(
        description="The certificate in short; the whole is the artifact `certificate.json`."
    )
    artifacts: list[Artifact]
    metadata: dict[str, str]
    spec: dict[str, Any] = Field(description="The spec with all defaults filled in.")
    spec_digest: str
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(
        description="The artifacts are kept until then; null: until the job is deleted."
    )
    links: JobLinks


class JobList(Resource):
    """A page of jobs, the newest first."""

    object: Literal["list"]
    data: list[Job]
    has_more: bool
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


class Plan(Resource):
    """What a job would do, found out without creating it."""

    object: Literal["plan"]
    spec: dict[str, Any] = Field(description="The spec with all defaults filled in.")
    spec_digest: str
    stages: list[str] = Field(description="Stages that the run goes through, in order.")
    strategy: StrategyName
    approximations: list[ApproximationName] = Field(
        description="Those of the spec that the target's runtime can run smaller or faster."
    )
    max_minutes: float = Field(description="The run ends with the best so far after this long.")
    warnings: list[str] = Field(description="What will be ignored, and why.")
