"""The manner every document of the job language shares: strict, frozen, no unknown fields."""

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """Base of everything a user writes or reads as JSON: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
