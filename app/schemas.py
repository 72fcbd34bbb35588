"""What every resource of the API shares: JSON bodies without surprises, pages of a list."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict


class Resource(BaseModel):
    """Base of the answers: made by this service from its own rows, so nothing is guessed."""

    model_config = ConfigDict(extra="forbid", from_attributes=True, frozen=True)


JobId = Annotated[str, Path(max_length=64, description="Id of a job, such as `job_0190…`.")]
