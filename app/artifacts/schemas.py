"""Artifacts as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from app.schemas import Resource


class Artifact(Resource):
    """A file that a job delivered."""

    id: str
    object: Literal["artifact"]
    name: str = Field(description="Path within the job's delivery.", examples=["onnx/model.onnx"])
    size: int = Field(description="Bytes.")
    sha256: str
    media_type: str
    created_at: datetime
    url: str = Field(description="Path to download it from.")


class ArtifactList(Resource):
    """All files of a job, by name."""

    object: Literal["list"]
    data: list[Artifact]
    has_more: bool
