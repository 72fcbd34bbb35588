"""Settings that the HTTP face and the workers share, from the environment (`AXFORGE_...`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.logs import LogLevel
from models.outbound import OutboundPolicy


class PoolSettings(BaseSettings):
    """Connections of one process to Postgres (`AXFORGE_DATABASE_...`). SQLite has no use for them."""

    model_config = SettingsConfigDict(env_prefix="AXFORGE_DATABASE_", extra="ignore")

    pool_size: int = Field(5, ge=1, description="Connections that are kept open.")
    max_overflow: int = Field(15, ge=0, description="Connections beyond these, closed after use.")
    pool_timeout_seconds: float = Field(10.0, gt=0, description="Longest wait for a free connection.")
    recycle_seconds: int = Field(1800, ge=1, description="A connection is replaced after this.")
    statement_seconds: float = Field(60.0, ge=0, description="Longest statement; 0: no limit.")
    # A transaction of ours takes milliseconds. One that stands open is of a process that was frozen, and
    # its locks would keep everybody from taking its job back.
    idle_transaction_seconds: float = Field(
        15.0, ge=0, description="A process that stops amid a transaction loses it after this; 0: never."
    )


class Settings(BaseSettings):
    """What is left out is embedded: SQLite and a folder below `data_dir`, no broker."""

    model_config = SettingsConfigDict(env_prefix="AXFORGE_", extra="ignore")

    data_dir: Path = Field(Path("data"), description="Local state: work folders, SQLite, objects.")
    database_url: SecretStr | None = Field(None, description="sqlite:///... or postgresql://...")
    broker_url: SecretStr | None = Field(None, description="redis://..., redis+socket://...")
    store_url: SecretStr | None = Field(None, description="file:///..., s3://bucket/prefix, gs://, az://")
    lease_seconds: float = Field(60.0, gt=0, description="A run silent for this long is given up.")
    heartbeat_seconds: float = Field(10.0, gt=0, description="Between two signs of life of a run.")
    stop_grace_seconds: float = Field(60.0, ge=0, description="From SIGTERM to SIGKILL of a run.")
    dispatch_seconds: float = Field(5.0, gt=0, description="Between looks at the queued jobs.")
    reap_seconds: float = Field(5.0, gt=0, description="Between looks at the expired leases.")
    max_attempts: int = Field(3, ge=1, description="Runs of a job before it fails as worker_lost.")
    upload_max_bytes: int = Field(10 * 1024**3, ge=1, description="Of one upload.")
    extracted_max_bytes: int = Field(50 * 1024**3, ge=1, description="Of one uploaded archive, unpacked.")
    extracted_max_files: int = Field(10_000, ge=1, description="In one uploaded archive.")
    uri_prefixes: tuple[str, ...] = Field(
        (), description="Object store URIs that jobs may read with the workers' credentials, as JSON."
    )
    extracted_max_ratio: int = Field(100, ge=1, description="Unpacked bytes for one packed byte.")
    quota_queued_jobs: int | None = Field(
        None, ge=0, description="Queued jobs of a tenant without quota of its own; default: any number."
    )
    quota_running_jobs: int | None = Field(None, ge=1, description="The same for jobs that run at a time.")
    quota_stored_bytes: int | None = Field(
        None, ge=0, description="The same for bytes of uploads and artifacts together."
    )
    quota_compute_minutes: float | None = Field(
        None, ge=0, description="The same for minutes of runs within 30 days."
    )
    idempotency_hours: float = Field(
        24.0, gt=0, description="An Idempotency-Key is remembered for this long."
    )
    log_level: LogLevel = Field("info", description="Least serious log lines that are written.")
    upload_days: float = Field(30.0, gt=0, description="An upload is kept so long after its last use.")
    artifact_days: float | None = Field(
        None, gt=0, description="Files of jobs that succeed from now on are kept so long; default: for ever."
    )
    state_days: float = Field(
        7.0,
        ge=0,
        description="The state of a job that succeeded is kept so long, so that other candidates of it can "
        "be exported; 0: not at all.",
    )
    event_days: float = Field(90.0, gt=0, description="Events are kept so long after the job's end.")
    audit_days: float = Field(400.0, ge=0, description="Audit events are kept so long; 0: for ever.")
    blob_grace_hours: float = Field(24.0, gt=0, description="A broken-off write is cleared away after this.")
    worker_devices: Literal["auto", "cpu", "cuda", "cpu,cuda"] = Field(
        "auto",
        description="Target devices whose jobs a worker takes; auto: cpu, and cuda where there is a GPU.",
    )
    queue_hours: float = Field(168.0, gt=0, description="A job that did not begin by then fails.")
    runtime_factor: float = Field(
        3.0, ge=1, description="A run is given up after budget.max_minutes times this, plus ..."
    )
    runtime_extra_minutes: float = Field(60.0, ge=0, description="... so many minutes.")
    allow_paths: bool = Field(False, description="Sources given as `path`: for an embedded server only.")
    allow_paths_with_keys: bool = Field(
        False, description="Also when callers have API keys: each of them may then read the workers' files."
    )

    secret_key: SecretStr | None = Field(
        None, min_length=32, description="What webhook secrets are derived from; for API and deliverer only."
    )
    outbound_http: bool = Field(False, description="Let webhooks go to http:// as well as https://.")
    outbound_ports: tuple[int, ...] = Field((80, 443, 8080, 8443), description="Of webhooks, as JSON.")
    outbound_allow: tuple[str, ...] = Field(
        (), description="Hosts and networks that are not public but may be sent webhooks, as JSON."
    )
    webhook_timeout_seconds: float = Field(15.0, gt=0, description="For a receiver to answer.")
    webhook_lease_seconds: float = Field(
        120.0, gt=0, description="A delivery silent for this long is sent anew."
    )
    webhook_concurrency: int = Field(16, ge=1, description="Deliveries under way in one deliverer.")
    webhook_days: float = Field(30.0, gt=0, description="Deliveries are listed for this long.")
    deliver_seconds: float = Field(1.0, gt=0, description="Between looks at the webhook deliveries.")

    @field_validator("outbound_allow")
    @classmethod
    def _names_hosts_and_networks(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        OutboundPolicy.of(http=False, ports=(), allow=entries)
        return entries

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

    @property
    def outbound(self) -> OutboundPolicy:
        """Where webhooks may go."""
        return OutboundPolicy.of(
            http=self.outbound_http, ports=self.outbound_ports, allow=self.outbound_allow
        )

    def environment(self) -> dict[str, str]:
        """The variables that give a worker the same settings, without the key that it has no use for."""
        variables = {}
        for name, value in self.model_dump(exclude_none=True, exclude={"secret_key"}).items():
            if isinstance(value, SecretStr):
                text = value.get_secret_value()
            elif isinstance(value, tuple):
                text = json.dumps(value)
            else:
                text = str(value)
            variables[f"AXFORGE_{name.upper()}"] = text
        return variables
