"""What can be done with uploads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from app.context import Context
from app.jobs import repository as jobs
from app.pages import Position, decode_cursor, encode_cursor
from app.problems import InvalidUpload, NotFound, StorageFull, TooLarge, UploadInUse
from app.uploads import repository
from app.uploads.kinds import FIRST_BYTES, FileType, check_start
from app.uploads.schemas import Upload, UploadList
from models.base import utc_now
from models.store import BlobTooLarge, StoreFull
from models.upload import Upload as UploadRow
from models.upload import UploadKind


@dataclass(frozen=True)
class Announced:
    """What the client says that it sends."""

    kind: UploadKind
    filename: str
    type: FileType
    sha256: str | None


def receive(context: Context, tenant: str, announced: Announced, chunks: Iterator[bytes]) -> Upload:
    """Store the bytes as they come, then the record. Refused or broken off, nothing is left.

    Raises:
        InvalidUpload: the bytes are not what was announced.
        TooLarge: there are more than this service takes.
        StorageFull: the store has no room.
    """
    limit = context.settings.upload_max_bytes
    try:
        blob = context.store.put_stream(_checked(announced, chunks), max_bytes=limit)
    except BlobTooLarge as error:
        raise TooLarge(f"The file is larger than {limit} bytes, the most that is taken here.") from error
    except StoreFull as error:
        raise StorageFull(
            "The service has no room for this file; nothing of it was kept.",
            remedy="Remove uploads that are not needed, or try again later.",
        ) from error
    row = UploadRow(
        tenant=tenant,
        kind=announced.kind,
        filename=announced.filename,
        size=blob.size,
        sha256=blob.sha256,
        media_type=announced.type.media_type,
        expires_at=utc_now() + timedelta(days=context.api.upload_days),
    )
    with context.database.transaction() as session:
        repository.add(session, row)
    return _describe(row)


def get(context: Context, tenant: str, upload_id: str) -> Upload:
    """The upload of that id."""
    with context.database.session() as session:
        row = repository.find(session, tenant, upload_id)
    if row is None:
        raise _unknown(upload_id)
    return _describe(row)


def page(
    context: Context, tenant: str, kind: UploadKind | None, cursor: str | None, limit: int
) -> UploadList:
    """A page of uploads, the newest first."""
    with context.database.session() as session:
        rows = repository.page(session, tenant, kind, decode_cursor(cursor), limit + 1)
    shown, has_more = rows[:limit], len(rows) > limit
    return UploadList(
        object="list",
        data=[_describe(row) for row in shown],
        has_more=has_more,
        next_cursor=encode_cursor(Position(shown[-1].created_at, shown[-1].id)) if has_more else None,
    )


def delete(context: Context, tenant: str, upload_id: str) -> None:
    """Forget the upload. Its bytes may be shared with other uploads, so they stay in the store.

    Raises:
        UploadInUse: a job that has not ended refers to it.
    """
    with context.database.transaction() as session:
        row = repository.find(session, tenant, upload_id)
        if row is None:
            raise _unknown(upload_id)
        job_id = jobs.uses_upload(session, tenant, upload_id)
        if job_id is not None:
            raise UploadInUse(
                f"The job {job_id} has not ended and refers to this upload.",
                remedy="Wait for the job or cancel it, then remove the upload.",
            )
        repository.remove(session, row)


def _checked(announced: Announced, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes, refused at their beginning or end if they are not what was announced."""
    digest = hashlib.sha256()
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= FIRST_BYTES:
            break
    check_start(announced.kind, announced.type, start)
    digest.update(start)
    yield start
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if announced.sha256 is not None and digest.hexdigest() != announced.sha256:
        raise InvalidUpload(
            f"The bytes that came have the SHA-256 {digest.hexdigest()}, not the one announced.",
            remedy="Send the file again; it was damaged on the way or changed meanwhile.",
        )


def _unknown(upload_id: str) -> NotFound:
    return NotFound(f"There is no upload {upload_id[:64]!r}.", remedy="See GET /v1/uploads for the ids.")


def _describe(row: UploadRow) -> Upload:
    return Upload(
        id=row.id,
        object="upload",
        kind=row.kind,
        filename=row.filename,
        size=row.size,
        sha256=row.sha256,
        media_type=row.media_type,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
