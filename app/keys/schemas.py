"""API keys as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app.moments import in_utc
from app.schemas import Resource
from models.api_key import Scope
from models.base import utc_now


def _unique(scopes: list[Scope]) -> list[Scope]:
    twice = {scope.value for scope in scopes if scopes.count(scope) > 1}
    if twice:
        raise ValueError(f"named twice: {', '.join(sorted(twice))}")
    return scopes


def _future(moment: datetime) -> datetime:
    if moment <= utc_now():
        raise ValueError("the key would have expired already; give a time that is to come")
    return moment


KeyName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Scopes = Annotated[list[Scope], Field(min_length=1, max_length=len(Scope)), AfterValidator(_unique)]
Expiry = Annotated[datetime, AfterValidator(in_utc), AfterValidator(_future)]


class NewApiKey(BaseModel):
    """What is asked for in a new key."""

    model_config = ConfigDict(extra="forbid")

    name: KeyName = Field(description="What the key is for.", examples=["ci"])
    scopes: Scopes = Field(description="What it may be used for.", examples=[["jobs", "artifacts"]])
    expires_at: Expiry | None = Field(None, description="RFC 3339, UTC without a zone; never if left out.")


class ApiKey(Resource):
    """A key, without its secret, which nobody has but who created it."""

    id: str
    object: Literal["api_key"]
    name: str
    scopes: list[Scope]
    prefix: str = Field(description="How the secret begins, to recognise it.", examples=["axf_0190…_k3Zq"])
    created_at: datetime
    last_used_at: datetime | None = Field(description="To the minute.")
    expires_at: datetime | None
    revoked_at: datetime | None


class CreatedApiKey(ApiKey):
    """A new key with its secret."""

    secret: str | None = Field(
        description="Shown here and never again: null if the answer is a replay. "
        "Send it as `Authorization: Bearer ...`."
    )


class ApiKeyList(Resource):
    """A page of keys, the newest first."""

    object: Literal["list"]
    data: list[ApiKey]
    has_more: bool
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")
