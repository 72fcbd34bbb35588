"""What must be true of a job whatever happened on the way."""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import select

from models.database import Database
from models.job import TERMINAL, JobStatus
from models.store import Store, blob_key
from models.tables import Artifact, CandidateRow, Event
from tests.worker.jobs import load

ENDS = {f"job.{status.value}" for status in TERMINAL}


def assert_ended_once(database: Database, job_id: str, status: JobStatus) -> None:
    """One terminal event, the last of all, of that status; no files unless it succeeded."""
    job = load(database, job_id)
    assert (job.status, job.lease_until) == (status, None), job.error
    with database.session() as session:
        told = session.scalars(select(Event.type).where(Event.job_id == job_id).order_by(Event.id)).all()
        files = session.scalars(select(Artifact.id).where(Artifact.job_id == job_id)).all()
    assert [type for type in told if type in ENDS] == [f"job.{status.value}"]
    assert told[-1] == f"job.{status.value}"
    assert told.count("job.created") == 1
    assert told.count("job.started") == job.attempt
    assert bool(files) is (status is JobStatus.SUCCEEDED)


def assert_delivered_once(database: Database, store: Store, job_id: str) -> None:
    """It succeeded with one set of files, whose stored bytes have the digests that were certified."""
    assert_ended_once(database, job_id, JobStatus.SUCCEEDED)
    with database.session() as session:
        rows = session.scalars(select(Artifact).where(Artifact.job_id == job_id)).all()
        numbers = session.scalars(
            select(CandidateRow.number).where(CandidateRow.job_id == job_id).order_by(CandidateRow.number)
        ).all()
    stored = {row.name: b"".join(store.open_range(blob_key(row.sha256, row.generation))) for row in rows}
    assert len(stored) == len(rows)
    for row in rows:
        assert (len(stored[row.name]), _sha256(stored[row.name])) == (row.size, row.sha256), row.name
    certificate = json.loads(stored["certificate.json"])
    assert certificate["spec_digest"] == load(database, job_id).spec_digest
    assert certificate["artifacts"]
    for name, digest in certificate["artifacts"].items():
        assert _sha256(stored[name]) == digest, name
    assert list(numbers) == list(range(len(numbers)))
    assert numbers


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
