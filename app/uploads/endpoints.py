"""`/v1/uploads`: send, look up, list and remove models and data sets."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from app.bodies import bounded_chunks
from app.context import Service, Tenant
from app.pages import Cursor, Limit
from app.pointers import FieldProblem
from app.problems import InvalidRequest, UnsupportedMediaType
from app.uploads import service
from app.uploads.kinds import type_of
from app.uploads.schemas import Upload, UploadList
from models.upload import UploadKind

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

UploadId = Annotated[str, Path(max_length=64, description="Id of an upload, such as `upl_0190…`.")]
REFUSED_TYPES = ("multipart/", "application/x-www-form-urlencoded")
REPR_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of the file, as they are.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
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
    tenant: Tenant,
    kind: Annotated[UploadKind, Query(description="What the file is.")],
    filename: Annotated[
        str,
        Query(
            pattern=r"^\w[\w .+@()=,-]{0,199}$",
            description="Name of the file, without folders; its ending tells the format.",
        ),
    ],
    sha256: Annotated[
        str | None,
        Query(pattern=r"^[0-9a-f]{64}$", description="Refuse the file if its digest is another."),
    ] = None,
    repr_digest: Annotated[str | None, Header(description="The same, as in RFC 9530.")] = None,
) -> Response:
    """Send the file as the body; it is stored while it arrives. A model comes as a zip or tar archive."""
    _refuse_forms(request)
    announced = service.Announced(kind, filename, type_of(kind, filename), sha256 or _digest_in(repr_digest))
    body = bounded_chunks(request, context.settings.upload_max_bytes)
    upload = await anyio.to_thread.run_sync(
        service.receive, context, tenant, announced, _from_thread(body), limiter=context.uploading
    )
    headers = {"Location": f"/v1/uploads/{upload.id}"}
    return JSONResponse(upload.model_dump(mode="json"), status_code=201, headers=headers)


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
def delete_upload(context: Service, tenant: Tenant, upload_id: UploadId) -> None:
    """Remove an upload. 409 `upload_in_use` while a job that has not ended refers to it."""
    service.delete(context, tenant, upload_id)


def _from_thread(chunks: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The chunks, fetched from the event loop one by one by the thread that stores them."""

    async def following() -> bytes | None:
        return await anext(chunks, None)

    while (chunk := anyio.from_thread.run(following)) is not None:
        yield chunk


def _refuse_forms(request: Request) -> None:
    media_type = request.headers.get("content-type", "").lower()
    if media_type.startswith(REFUSED_TYPES):
        raise UnsupportedMediaType(
            "The file is taken as the body itself, not inside a form.",
            remedy="Send the bytes with `Content-Type: application/octet-stream`, "
            "as `curl --data-binary @FILE -H 'Content-Type: application/octet-stream'` does.",
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
    problem = FieldProblem(
        parameter="Repr-Digest",
        detail="The header holds no SHA-256.",
        remedy="Give `sha-256=:BASE64:` (RFC 9530), or leave it out.",
    )
    raise InvalidRequest(problem.detail, remedy=problem.remedy, errors=[problem])
