"""What the functions of `models.lifecycle` take and give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from models.redaction import redact


@dataclass(frozen=True)
class ClaimedJob:
    """What a worker needs to start a run."""

    id: str
    attempt: int
    tenant: str
    spec: dict[str, Any]
    spec_digest: str
    request_id: str | None = None
    trace_context: dict[str, str] | None = None


@dataclass(frozen=True)
class Lease:
    """The answer to a heartbeat: does the run still hold the job, and should it stop."""

    held: bool
    cancel_requested: bool


@dataclass(frozen=True)
class JobError:
    """Why a job failed, in the shape of a problem."""

    code: str
    detail: str
    remedy: str
    pointer: str | None = None
    retryable: bool = False

    def document(self) -> dict[str, Any]:
        """The JSON that is stored and shown."""
        return {
            "code": self.code,
            "detail": redact(self.detail),
            "remedy": redact(self.remedy),
            "pointer": self.pointer,
            "retryable": self.retryable,
        }


@dataclass(frozen=True)
class Delivery:
    """A file to be listed with a finished job; its bytes are in the store already, as `generation`."""

    name: str
    size: int
    sha256: str
    media_type: str
    generation: int = 0


@dataclass(frozen=True)
class Requeued:
    """What the reaper did."""

    queued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
