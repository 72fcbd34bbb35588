"""What a run writes while it goes: progress, events, candidates, checkpoints. All of it is guarded
like the statements of `models.lifecycle`: a run that lost its lease gets `LeaseLost`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from models import tally
from models.candidate import CandidateRow
from models.checkpoint import Checkpoint
from models.event import Event
from models.lifecycle import touch
from models.redaction import redact, redact_document
from models.spec import Candidate


def write_progress(session: Session, job_id: str, attempt: int, progress: dict[str, Any]) -> bool:
    """Replace the progress `{stage, step, total, fraction, eta_seconds, message}`. Raises LeaseLost.

    Returns:
        Whether the user asked the run to stop.
    """
    return touch(session, job_id, attempt, progress=redact_document(progress))


def add_event(
    session: Session,
    job_id: str,
    attempt: int,
    *,
    type: str,
    message: str,
    level: str = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """Append to what a user reads later. Raises LeaseLost."""
    touch(session, job_id, attempt)
    session.add(
        Event(
            job_id=job_id,
            attempt=attempt,
            type=type,
            level=level,
            message=redact(message),
            data=redact_document(data or {}),
        )
    )


def upsert_candidate(session: Session, job_id: str, attempt: int, candidate: Candidate) -> None:
    """Store a candidate, over the one of the same number from an earlier attempt. Raises LeaseLost."""
    touch(session, job_id, attempt)
    document = candidate.model_dump(mode="json")
    session.merge(CandidateRow(job_id=job_id, attempt=attempt, **document))
    tally.count(session, "candidates", "accepted" if candidate.accepted else "refused")


def finish_stage(session: Session, job_id: str, attempt: int, stage: str, seconds: float) -> None:
    """Tell that a stage was done in this attempt, and how long it took. Raises LeaseLost."""
    add_event(
        session,
        job_id,
        attempt,
        type="stage.finished",
        message=f"Stage {stage} took {seconds:.1f} s.",
        data={"stage": stage, "seconds": round(seconds, 3)},
    )
    tally.observe(session, "stage_seconds", stage, seconds)


def save_checkpoint(
    session: Session, job_id: str, attempt: int, name: str, *, sha256: str, size: int
) -> None:
    """Remember where a file of the work folder is kept. Raises LeaseLost."""
    touch(session, job_id, attempt)
    session.merge(Checkpoint(job_id=job_id, name=name, sha256=sha256, size=size, attempt=attempt))


def forget_checkpoint(session: Session, job_id: str, attempt: int, name: str) -> None:
    """The file is no longer part of what a run goes on from. Raises LeaseLost."""
    touch(session, job_id, attempt)
    session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.name == name))


def checkpoints(session: Session, job_id: str) -> list[Checkpoint]:
    """The files that a run can go on from."""
    return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id)))
