"""`/v1/uploads`: send, look up, list and remove models and data sets."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from app.auth import CurrentCaller, needs
from app.bodies import announced_length, bounded_chunks
from app.context import Service, Tenant
from app.idempotency.service import Idempotent
from app.pages import Cursor, Limit
from app.pointers import FieldProblem
from app.problems import InvalidRequest, UnsupportedMediaType
from app.uploads import multipart, service
from app.uploads.kinds import type_of
from app.uploads.schemas import Upload, UploadList
from models.api_key import Scope
from models.upload import UploadKind

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], dependencies=[needs(Scope.UPLOADS)])

UploadId = Annotated[str, Path(max_length=64, description="Id of an upload, such as `upl_0190…`.")]
FORM_TYPE = "application/x-www-form-urlencoded"
FORM_OVERHEAD_BYTES = 64 * 1024
FILE_NAME = re.compile(r"\w[\w .+@()=,-]{0,199}")
REPR_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
BYTES = {"type": "string", "format": "binary"}
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of the file, as they are or as the file of a form.",
        "content": {
            "application/octet-stream": {"schema": BYTES},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": BYTES}, "required": ["file"]}
            },
        },
    }
}


@router.post(
    "",
    operation_id="create_upload",
    summary="Upload a model or a data set",
    status_code=201,
    response_model=Upload,
    responses={
        201: {
            "description": "The file is stored.",
            "headers": {"Location": {"schema": {"type": "string"}, "description": "Path of the upload."}},
        }
    },
    openapi_extra=UPLOAD_BODY,
)
async def create_upload(
    request: Request,
    context: Service,
    caller: CurrentCaller,
    idempotency: Idempotent,
    kind: Annotated[UploadKind, Query(description="What the file is.")],
    filename: Annotated[
        str | None,
        Query(description="Name of the file, without folders; its ending tells the format. A form names it."),
    ] = None,
    sha256: Annotated[
        str | None,
        Query(pattern=r"^[0-9a-f]{64}$", description="Refuse the file if its digest is another."),
    ] = None,
    repr_digest: Annotated[str | None, Header(description="The same, as in RFC 9530.")] = None,
) -> Response:
    """Send the file as the body; it is stored while it arrives. A model comes as a zip or tar archive."""
    content_type = request.headers.get("content-type", "")
    is_form = content_type.lower().startswith(multipart.MEDIA_TYPE)
    size = announced_length(request)
    if size is not None and is_form:
        size = max(size - FORM_OVERHEAD_BYTES, 0)
    await run_in_threadpool(service.check_room, context, caller.tenant, size, idempotency)
    body = bounded_chunks(request, context.settings.upload_max_bytes + FORM_OVERHEAD_BYTES)
    if is_form:
        form = multipart.FormFile(content_type, body)
        filename = filename or await form.filename()
        body = form.chunks()
    elif content_type.lower().startswith(FORM_TYPE):
        # What curl says of any body unless told otherwise; taken as it is it would be a surprise.
        raise UnsupportedMediaType("The file is said to be a form.", remedy=multipart.HOW_TO_SEND)
    name = _checked_name(filename)
    announced = service.Announced(kind, name, type_of(kind, name), sha256 or _digest_in(repr_digest))
    async with context.uploading.of(caller.tenant) as threads:
        answer = await anyio.to_thread.run_sync(
            service.receive,
            context,
            caller,
            announced,
            _from_thread(body),
            idempotency,
            limiter=threads,
        )
    return answer.response()


@router.get("", operation_id="list_uploads", summary="List uploads")
def list_uploads(
    context: Service,
    tenant: Tenant,
    cursor: Cursor = None,
    limit: Limit = 20,
    kind: Annotated[UploadKind | None, Query(description="Only models, or only data sets.")] = None,
) -> UploadList:
    """The uploads, the newest first."""
    return service.page(context, tenant, kind, cursor, limit)


@router.get("/{upload_id}", operation_id="get_upload", summary="Get an upload")
def get_upload(context: Service, tenant: Tenant, upload_id: UploadId) -> Upload:
    """Size and digest of an upload."""
    return service.get(context, tenant, upload_id)


@router.delete(
    "/{upload_id}",
    operation_id="delete_upload",
    summary="Remove an upload",
    status_code=204,
    response_class=Response,
)
def delete_upload(context: Service, caller: CurrentCaller, upload_id: UploadId) -> None:
    """Remove an upload. 409 `upload_in_use` while a job that has not ended refers to it."""
    service.delete(context, caller, upload_id)


def _from_thread(chunks: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The chunks, fetched from the event loop one by one by the thread that stores them."""

    async def following() -> bytes | None:
        return await anext(chunks, None)

    while (chunk := anyio.from_thread.run(following)) is not None:
        yield chunk


def _checked_name(filename: str | None) -> str:
    if filename is not None and FILE_NAME.fullmatch(filename):
        return filename
    raise _wrong(
        "filename",
        "This is no plain file name." if filename else "The file has no name.",
        "Give a name of letters, digits, spaces and ._+@()=,- without folders, such as `filename=data.csv`.",
    )


def _digest_in(header: str | None) -> str | None:
    if header is None:
        return None
    match = REPR_DIGEST.search(header)
    try:
        return base64.b64decode(match.group(1), validate=True).hex() if match else _unknown_digest()
    except binascii.Error:
        return _unknown_digest()


def _unknown_digest() -> str:
    raise _wrong(
        "Repr-Digest",
        "The header holds no SHA-256.",
        "Give `sha-256=:BASE64:` (RFC 9530), or leave it out.",
    )


def _wrong(parameter: str, detail: str, remedy: str) -> InvalidRequest:
    problem = FieldProblem(parameter=parameter, detail=detail, remedy=remedy)
    return InvalidRequest(detail, remedy=remedy, errors=[problem])
