"""Uploads as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from app.schemas import Resource
from models.upload import UploadKind


class Upload(Resource):
    """A model or data set that was sent to this service; name its id as `upload` in a spec."""

    id: str = Field(examples=["upl_0190a1b2c3d4e5f60718293a4b5c"])
    object: Literal["upload"]
    kind: UploadKind
    filename: str
    size: int = Field(description="Bytes.")
    sha256: str
    media_type: str
    created_at: datetime
    expires_at: datetime | None = Field(
        description="Kept until then, and longer while a job needs it or after one did."
    )


class UploadList(Resource):
    """A page of uploads, the newest first."""

    object: Literal["list"]
    data: list[Upload]
    has_more: bool
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")
