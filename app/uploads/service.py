"""What can be done with uploads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from app.audit import repository as audit
from app.caller import Caller
from app.context import Context
from app.idempotency.service import Answer, Keyed, reserved, was_answered
from app.pages import Position, cut, decode_cursor
from app.problems import InvalidUpload, NotFound, ServiceUnavailable, StorageFull, TooLarge, UploadInUse
from app.quotas.service import check_may_store, storage_exceeded, storage_left
from app.uploads import repository
from app.uploads.kinds import FIRST_BYTES, FileType, check_start
from app.uploads.schemas import Upload, UploadList
from models import blobs, retention
from models.base import utc_now
from models.blobs import BlobLost
from models.store import Blob, BlobTooLarge, StoreFull
from models.upload import Upload as UploadRow
from models.upload import UploadKind


@dataclass(frozen=True)
class Announced:
    """What the client says that it sends."""

    kind: UploadKind
    filename: str
    type: FileType
    sha256: str | None


def check_room(context: Context, tenant: str, size: int | None, request: Keyed) -> None:
    """Before anything of a file is read; `size` is what its sender says. A replay needs no room.

    Raises:
        StorageQuotaExceeded: the tenant has no room for it.
    """
    with context.database.session() as session:
        left = storage_left(session, tenant, context.settings)
        full = left is not None and (left <= 0 or (size is not None and size > left))
        if full and not was_answered(session, tenant, request):
            raise storage_exceeded(session, tenant, context.settings, size)


def receive(
    context: Context, caller: Caller, announced: Announced, chunks: Iterator[bytes], request: Keyed
) -> Answer:
    """Store the bytes as they come, then the record. Refused or broken off, nothing is left.

    With a key that was answered before, the bytes are only compared with those of then.

    Raises:
        InvalidUpload: the bytes are not what was announced.
        TooLarge: there are more than this service takes.
        StorageQuotaExceeded: there are more than the tenant may store.
        StorageFull: the store has no room.
        ServiceUnavailable: it took longer than broken-off writes are kept.
    """
    with reserved(context, caller.tenant, request) as reservation:
        if reservation.answered:
            return reservation.replay(_payload(announced, _digest(_checked(announced, chunks))))
        blob = _stored(context, caller.tenant, reservation.holding(_checked(announced, chunks)))
        row = UploadRow(
            tenant=caller.tenant,
            kind=announced.kind,
            filename=announced.filename,
            size=blob.size,
            sha256=blob.sha256,
            generation=blob.generation,
            media_type=announced.type.media_type,
            expires_at=utc_now() + timedelta(days=context.settings.upload_days),
        )
        try:
            with context.database.transaction() as session:
                check_may_store(session, caller.tenant, context.settings, blob.size)
                blobs.attach(session, blob)
                repository.add(session, row)
                audit.record(
                    session, caller, "upload.created", row.id, kind=row.kind.value, sha256=row.sha256
                )
                answer = Answer(201, _describe(row).model_dump_json(), {"Location": f"/v1/uploads/{row.id}"})
                reservation.settle(session, _payload(announced, blob.sha256), answer)
        except BlobLost as error:
            raise ServiceUnavailable(
                "The file took so long that it was cleared away as left behind.", remedy="Send it again."
            ) from error
        return answer


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
    shown, next_cursor = cut(rows, limit, lambda row: Position(row.created_at, row.id))
    return UploadList(
        object="list",
        data=[_describe(row) for row in shown],
        has_more=next_cursor is not None,
        next_cursor=next_cursor,
    )


def delete(context: Context, caller: Caller, upload_id: str) -> None:
    """Forget the upload. The collector deletes its bytes, unless something else refers to them.

    Raises:
        UploadInUse: a job that has not ended refers to it.
    """
    with context.database.transaction() as session:
        # Locked first, asked afterwards: a job that is being created with it is either seen or waits.
        row = repository.lock(session, caller.tenant, upload_id)
        if row is None:
            raise _unknown(upload_id)
        job_id = retention.job_that_needs(session, upload_id)
        if job_id is not None:
            raise UploadInUse(
                f"The job {job_id} has not ended and refers to this upload.",
                remedy="Wait for the job or cancel it, then remove the upload.",
            )
        retention.remove_uploads(session, [row.id])
        audit.record(session, caller, "upload.deleted", upload_id)


def _stored(context: Context, tenant: str, chunks: Iterator[bytes]) -> Blob:
    most = context.settings.upload_max_bytes
    with context.database.session() as session:
        left = storage_left(session, tenant, context.settings)
    room = most if left is None else min(most, max(left, 0))
    try:
        reserve = blobs.reserver(context.database, context.settings.blob_grace_hours)
        return context.store.put_stream(chunks, max_bytes=room, reserve=reserve)
    except BlobTooLarge as error:
        if left is None or left >= most:
            raise TooLarge(f"The file is larger than {most} bytes, the most that is taken here.") from error
        with context.database.session() as session:
            raise storage_exceeded(session, tenant, context.settings, None) from error
    except StoreFull as error:
        raise StorageFull(
            "The service has no room for this file; nothing of it was kept.",
            remedy="Remove uploads that are not needed, or try again later.",
        ) from error


def _payload(announced: Announced, sha256: str) -> str:
    return f"{announced.kind.value} {sha256} {announced.filename}"


def _digest(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


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
