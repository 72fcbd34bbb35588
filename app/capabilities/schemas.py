"""Capabilities as the API shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from app.schemas import Resource


class ApproximationInfo(Resource):
    """Something that can be done to a model."""

    name: str
    description: str
    element: str = Field(description="What it is done to.", examples=["head"])
    gains: list[str] = Field(description="What it can improve: speed, size, accuracy.")
    runtimes: list[str] = Field(description="Where that takes effect.")
    json_schema: dict[str, Any] = Field(description="Of its step in a recipe.")


class StrategyInfo(Resource):
    """A way to search for the best recipe."""

    name: str
    description: str
    focuses: list[str]


class Limits(Resource):
    """The most that this service takes."""

    spec_max_bytes: int
    upload_max_bytes: int
    max_wait_seconds: float
    max_minutes: float
    max_candidates: int


class UploadKinds(Resource):
    """File name endings that are taken."""

    model: list[str]
    dataset: list[str]


class Capabilities(Resource):
    """What can be asked of this service."""

    object: Literal["capabilities"]
    version: str
    tasks: list[str]
    metrics: list[str]
    task_metrics: dict[str, list[str]] = Field(description="What each task is scored by, the default first.")
    architectures: list[str] = Field(description="`model_type`s of base models.")
    task_architectures: dict[str, list[str]] = Field(description="Those that serve each task.")
    approximations: list[ApproximationInfo]
    strategies: list[StrategyInfo]
    stages: list[str]
    exports: list[str]
    runtimes: list[str]
    devices: list[str]
    sources: list[str] = Field(description="Where models and data may come from.")
    uploads: UploadKinds
    limits: Limits
    job_spec_schema: dict[str, Any] = Field(description="JSON Schema (2020-12) of POST /v1/jobs.")
