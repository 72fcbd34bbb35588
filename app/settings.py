"""Settings of the HTTP face, from the environment (`AXFORGE_API_...`)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from limits import parse
from pydantic import AfterValidator, Field, IPvAnyNetwork
from pydantic_settings import BaseSettings, SettingsConfigDict

Network = IPvAnyNetwork


class Auth(StrEnum):
    """Who is served while no API key was ever created. From the first key on, every request needs one."""

    AUTO = "auto"  # this machine
    OPEN = "open"  # everybody who reaches the service
    REQUIRED = "required"  # nobody


def _is_rate(text: str) -> str:
    parse(text)  # a ValueError tells what is wrong
    return text


Rate = Annotated[str, AfterValidator(_is_rate)]


class ApiSettings(BaseSettings):
    """Limits and rhythms of the API; what it shares with the workers is in `models.settings`."""

    model_config = SettingsConfigDict(env_prefix="AXFORGE_API_", extra="ignore")

    auth: Auth = Field(Auth.AUTO, description="Who is served before the first API key.")
    spec_max_bytes: int = Field(256 * 1024, ge=1, description="Largest body of POST /v1/jobs.")
    body_idle_seconds: float = Field(
        60.0, gt=0, description="A request whose body stops coming for so long is ended (408)."
    )
    upload_concurrency: int = Field(
        8, ge=1, description="Uploads received at the same time; half of them at most of one tenant."
    )
    poll_seconds: float = Field(0.25, gt=0, description="Between looks at the jobs that clients wait for.")
    max_wait_seconds: float = Field(60.0, ge=0, description="Longest `Prefer: wait`.")
    metrics_from: tuple[Network, ...] = Field(
        ("127.0.0.0/8", "::1/128"),
        validate_default=True,
        description="Networks whose hosts may read /metrics, as JSON; `[]` for nobody.",
    )
    probe_seconds: float = Field(2.0, gt=0, description="For each part that /readyz and /metrics ask.")
    retry_after_seconds: int = Field(2, ge=1, description="Told to clients that poll a job.")

    webhooks_max: int = Field(20, ge=0, description="Webhooks of one tenant.")
    webhook_overlap_hours: float = Field(24.0, ge=0, description="A rotated secret is still good this long.")
    presign_seconds: float = Field(
        0.0,
        ge=0,
        le=7 * 86400,
        description="Downloads are sent on to the object store, by addresses good for so long; 0: not.",
    )
    presign_endpoint: str | None = Field(
        None, description="The S3 store's address as clients reach it; default: AWS_ENDPOINT_URL."
    )

    rate_writes: Rate | None = Field(
        None,
        description="Most requests of one API key that change something, such as `600/minute`.",
    )
    rate_reads: Rate | None = Field(None, description="The same for those that are answered at once.")
    rate_streams: Rate | None = Field(None, description="The same for event streams and `Prefer: wait`.")
