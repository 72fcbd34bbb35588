"""Settings that the HTTP face and the workers share, from the environment (`AXFORGE_...`)."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What is left out is embedded: SQLite and a folder below `data_dir`, no broker."""

    model_config = SettingsConfigDict(env_prefix="AXFORGE_", extra="ignore")

    data_dir: Path = Field(Path("data"), description="Local state: work folders, SQLite, objects.")
    database_url: SecretStr | None = Field(None, description="sqlite:///... or postgresql://...")
    broker_url: SecretStr | None = Field(None, description="redis://..., redis+socket://...")
    store_url: SecretStr | None = Field(None, description="file:///..., s3://bucket/prefix, gs://, az://")
    lease_seconds: float = Field(60.0, gt=0, description="A run silent for this long is given up.")
    heartbeat_seconds: float = Field(10.0, gt=0)
    stop_grace_seconds: float = Field(60.0, ge=0, description="From SIGTERM to SIGKILL of a run.")
    dispatch_seconds: float = Field(5.0, gt=0, description="Between looks at the queued jobs.")
    reap_seconds: float = Field(15.0, gt=0, description="Between looks at the expired leases.")
    max_attempts: int = Field(3, ge=1, description="Runs of a job before it fails as worker_lost.")
    upload_max_bytes: int = Field(10 * 1024**3, ge=1)
    extracted_max_bytes: int = Field(50 * 1024**3, ge=1, description="Of one uploaded archive, unpacked.")
    extracted_max_files: int = Field(10_000, ge=1)
    uri_prefixes: tuple[str, ...] = Field(
        (), description="Object store URIs that jobs may read with the workers' credentials, as JSON."
    )
    idempotency_hours: float = Field(24.0, gt=0)
    allow_paths: bool = Field(False, description="Sources given as `path`: for an embedded server only.")

    @property
    def database(self) -> str:
        """The database's URL: as given, or SQLite in `data_dir`."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.resolve() / 'axforge.db'}"

    @property
    def store(self) -> str:
        """The object store's URL: as given, or a folder in `data_dir`."""
        if self.store_url is not None:
            return self.store_url.get_secret_value()
        return (self.data_dir.resolve() / "objects").as_uri()

    @property
    def broker(self) -> str | None:
        """The broker's URL, if there is one. Without it the dispatcher finds no worker."""
        return None if self.broker_url is None else self.broker_url.get_secret_value()

    def environment(self) -> dict[str, str]:
        """The variables that give a child process the same settings."""
        variables = {}
        for name, value in self.model_dump(exclude_none=True).items():
            if isinstance(value, SecretStr):
                text = value.get_secret_value()
            elif isinstance(value, tuple):
                text = json.dumps(value)
            else:
                text = str(value)
            variables[f"AXFORGE_{name.upper()}"] = text
        return variables
