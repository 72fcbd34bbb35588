"""Settings of the HTTP face, from the environment (`AXFORGE_API_...`)."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ApiSettings(BaseSettings):
    """Limits and rhythms of the API; what it shares with the workers is in `models.settings`."""

    model_config = SettingsConfigDict(env_prefix="AXFORGE_API_", extra="ignore")

    spec_max_bytes: int = Field(256 * 1024, ge=1, description="Largest body of POST /v1/jobs.")
    upload_concurrency: int = Field(8, ge=1, description="Uploads received at the same time.")
    upload_days: float = Field(30.0, gt=0, description="An upload is kept for at least this long.")
    poll_seconds: float = Field(0.5, gt=0, description="Between looks at the jobs that clients wait for.")
    max_wait_seconds: float = Field(60.0, ge=0, description="Longest `Prefer: wait`.")
    retry_after_seconds: int = Field(2, ge=1, description="Told to clients that poll a job.")
