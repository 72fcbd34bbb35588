"""`/v1/jobs/{job_id}/artifacts`: list and download."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Path
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from app.artifacts import service
from app.artifacts.schemas import ArtifactList
from app.auth import CurrentCaller, needs
from app.conditions import ByteRange, none_match, requested_range
from app.context import Service, Tenant
from app.schemas import JobId
from models.api_key import Scope
from models.artifact import Artifact as ArtifactRow

router = APIRouter(
    prefix="/v1/jobs/{job_id}/artifacts", tags=["artifacts"], dependencies=[needs(Scope.ARTIFACTS)]
)

FileName = Annotated[str, Path(max_length=300, description="Name of the file; it may hold slashes.")]
IfNoneMatch = Annotated[str | None, Header(description="ETag that the client has.")]
FILE_HEADERS = {
    "ETag": {"schema": {"type": "string"}, "description": "SHA-256 of the file, quoted."},
    "Accept-Ranges": {"schema": {"type": "string"}},
    "Repr-Digest": {"schema": {"type": "string"}, "description": "SHA-256 of the whole file (RFC 9530)."},
}
FILE_CONTENT: dict[str, Any] = {"*/*": {}}  # each file has its own media type


@router.get("", operation_id="list_artifacts", summary="List the files of a job")
def list_artifacts(context: Service, tenant: Tenant, job_id: JobId) -> ArtifactList:
    """All files that the job delivered, by name."""
    return service.list_of(context, tenant, job_id)


@router.get(
    "/{name:path}",
    operation_id="download_artifact",
    summary="Download a file of a job",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The file.", "content": FILE_CONTENT, "headers": FILE_HEADERS},
        206: {
            "description": "The range that was asked for.",
            "content": FILE_CONTENT,
            "headers": FILE_HEADERS,
        },
        304: {"description": "The file is as `If-None-Match` knows it."},
        307: {
            "description": "The object store gives it out, at `Location`.",
            "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
        },
    },
)
def download_artifact(
    context: Service,
    caller: CurrentCaller,
    job_id: JobId,
    name: FileName,
    range: Annotated[str | None, Header(description="One range of bytes, such as `bytes=1000-`.")] = None,
    if_range: Annotated[str | None, Header(description="ETag that the range belongs to.")] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The bytes, whole or from where a broken download ended.

    A service may send you on to its object store for a whole file; parts come from here.
    """
    row = service.find(context, caller.tenant, job_id, name)
    if not none_match(if_none_match, _etag(row)):
        return _not_modified(row)
    # The store knows another ETag, so that `If-Range` would begin the file anew there.
    address = service.elsewhere(context, caller, row) if range is None else None
    if address is not None:
        return RedirectResponse(address, status_code=307, headers={"Cache-Control": "no-store"})
    part = requested_range(range, if_range, _etag(row), row.size)
    return _stream(row, part, service.read(context, caller, row, part))


@router.head(
    "/{name:path}",
    operation_id="describe_artifact",
    summary="Size and digest of a file of a job",
    response_class=Response,
    responses={200: {"description": "The headers of the download.", "headers": FILE_HEADERS}},
)
def describe_artifact(
    context: Service, tenant: Tenant, job_id: JobId, name: FileName, if_none_match: IfNoneMatch = None
) -> Response:
    """What the download's headers would be."""
    row = service.find(context, tenant, job_id, name)
    if not none_match(if_none_match, _etag(row)):
        return _not_modified(row)
    headers = {**_headers(row), "Content-Length": str(row.size)}
    return Response(headers=headers, media_type=row.media_type)


def _stream(row: ArtifactRow, part: ByteRange | None, pieces: Iterator[bytes]) -> Response:
    headers = _headers(row)
    if part is None:
        headers["Content-Length"] = str(row.size)
        return StreamingResponse(pieces, headers=headers, media_type=row.media_type)
    headers["Content-Length"] = str(part.end - part.start)
    headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{row.size}"
    return StreamingResponse(pieces, status_code=206, headers=headers, media_type=row.media_type)


def _not_modified(row: ArtifactRow) -> Response:
    return Response(status_code=304, headers=_headers(row))


def _headers(row: ArtifactRow) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(row.sha256)).decode()
    return {
        "ETag": _etag(row),
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{digest}:",
        "Content-Disposition": _disposition(row.name.rpartition("/")[2]),
        "Cache-Control": "private, no-cache",
    }


def _disposition(filename: str) -> str:
    """Saved under its own name, never shown: RFC 6266, with the plain form for old clients."""
    plain = "".join(letter if letter.isascii() and letter.isprintable() else "_" for letter in filename)
    escaped = plain.replace("\\", "_").replace('"', "_")
    return f"attachment; filename=\"{escaped}\"; filename*=UTF-8''{quote(filename, safe='')}"


def _etag(row: ArtifactRow) -> str:
    return f'"{row.sha256}"'
