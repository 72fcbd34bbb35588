"""What can be done with the files that a job delivers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from sqlalchemy import Row

from app.artifacts import repository
from app.artifacts.schemas import Artifact, ArtifactList
from app.audit import repository as audit
from app.caller import Caller
from app.conditions import ByteRange
from app.context import Context
from app.jobs import repository as jobs
from app.problems import Gone, NotFound
from models.artifact import Artifact as ArtifactRow
from models.base import utc_now
from models.store import BlobNotFound, blob_key


def list_of(context: Context, tenant: str, job_id: str) -> ArtifactList:
    """All files of a job; a job that has not succeeded has none."""
    with context.database.session() as session:
        jobs.existing(session, tenant, job_id)
        rows = repository.of_jobs(session, [job_id])
    return ArtifactList(object="list", data=[describe(row) for row in rows], has_more=False)


def find(context: Context, tenant: str, job_id: str, name: str) -> ArtifactRow:
    """The file of that name.

    Raises:
        NotFound: no such job, or the job has no such file.
        Gone: the job's files have expired.
    """
    with context.database.session() as session:
        job = jobs.existing(session, tenant, job_id)
        row = repository.find(session, job_id, name)
    if row is None and job.expires_at is not None and job.expires_at <= utc_now():
        raise Gone(
            f"The job's files were kept until {job.expires_at:%Y-%m-%d %H:%M} UTC.",
            remedy="Run the job again.",
        )
    if row is None:
        raise NotFound(
            f"The job has no file {name[:100]!r}.",
            remedy=f"See GET /v1/jobs/{job_id}/artifacts for the names; a job delivers when it succeeds.",
        )
    return row


def read(context: Context, caller: Caller, row: ArtifactRow, part: ByteRange | None) -> Iterator[bytes]:
    """The bytes, in pieces; that they were asked for is on record before the first is sent.

    Raises:
        Gone: the store has them no longer.
    """
    part = part or ByteRange(0, row.size)
    try:
        pieces = context.store.open_range(blob_key(row.sha256, row.generation), part.start, part.end)
    except BlobNotFound as error:
        raise _gone() from error
    _note_download(context, caller, row, part)
    return pieces


def elsewhere(context: Context, caller: Caller, row: ArtifactRow) -> str | None:
    """Where the store itself gives the file out, which goes on record; None where it does not, or is not to.

    Raises:
        Gone: the store has it no longer.
    """
    seconds = context.api.presign_seconds
    address = context.store.presigned(blob_key(row.sha256, row.generation), seconds) if seconds else None
    if address is not None and not context.store.exists(blob_key(row.sha256, row.generation)):
        raise _gone()
    if address is not None:
        _note_download(context, caller, row, ByteRange(0, row.size))
    return address


def describe(row: ArtifactRow | Row[Any]) -> Artifact:
    """The file as the API shows it."""
    return Artifact(
        id=row.id,
        object="artifact",
        name=row.name,
        size=row.size,
        sha256=row.sha256,
        media_type=row.media_type,
        created_at=row.created_at,
        url=f"/v1/jobs/{row.job_id}/artifacts/{quote(row.name)}",
    )


def _note_download(context: Context, caller: Caller, row: ArtifactRow, part: ByteRange) -> None:
    with context.database.transaction() as session:
        span = {"first_byte": part.start, "end_byte": part.end}
        audit.record(session, caller, "artifact.downloaded", row.job_id, name=row.name, **span)


def _gone() -> Gone:
    return Gone("The store has the bytes of this file no longer.", remedy="Run the job again.")
