"""One error tree, answered everywhere as RFC 9457 `application/problem+json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DataError, OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from app.pointers import FieldProblem, parameter_problems

MEDIA_TYPE = "application/problem+json"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

log = structlog.get_logger(__name__)


class ProblemDocument(BaseModel):
    """The body of every answer that is not a success (RFC 9457)."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(examples=["urn:axforge:problem:invalid_request"])
    title: str = Field(examples=["The request is not valid"])
    status: int = Field(examples=[422])
    code: str = Field(description="Stable, for programs.", examples=["invalid_request"])
    detail: str = Field(description="What is wrong, for people.")
    remedy: str | None = Field(None, description="What would be right.")
    errors: list[FieldProblem] = Field([], description="One entry for every field that is wrong.")
    retryable: bool = Field(description="The same request may succeed later.")
    request_id: str | None = Field(None, description="Name it when you ask for help.")


class Problem(Exception):
    """Base of what is answered to a client; `detail` and `remedy` hold no secret and no path of the host."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "The service failed"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        remedy: str | None = None,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


class MalformedBody(Problem):
    """The body cannot be read as what its Content-Type says."""

    status, code, title = 400, "malformed_body", "The body cannot be read"


class NotFound(Problem):
    """No such thing, or it is another tenant's."""

    status, code, title = 404, "not_found", "There is no such thing"


class MethodNotAllowed(Problem):
    """The path exists, with other methods."""

    status, code, title = 405, "method_not_allowed", "The method is not allowed here"


class JobDone(Problem):
    """The job has ended, so it cannot be cancelled."""

    status, code, title = 409, "job_done", "The job has ended"


class UploadInUse(Problem):
    """A job that has not ended refers to the upload."""

    status, code, title = 409, "upload_in_use", "The upload is in use"


class Gone(Problem):
    """It was here, and is no more."""

    status, code, title = 410, "gone", "It is no longer kept"


class TooLarge(Problem):
    """The body is larger than this service takes."""

    status, code, title = 413, "too_large", "The body is too large"


class UnsupportedMediaType(Problem):
    """The body is of a kind that is not taken here."""

    status, code, title = 415, "unsupported_media_type", "The kind of file or body is not taken"


class RangeNotSatisfiable(Problem):
    """The range lies outside the file."""

    status, code, title = 416, "range_not_satisfiable", "The range lies outside the file"


class InvalidRequest(Problem):
    """Fields are wrong; `errors` says which and how."""

    status, code, title = 422, "invalid_request", "The request is not valid"


class InvalidUpload(Problem):
    """The uploaded bytes are not what was announced."""

    status, code, title = 422, "invalid_upload", "The upload cannot be used"


class IdempotencyKeyReused(Problem):
    """The key was used before with another payload."""

    status, code, title = 422, "idempotency_key_reused", "The idempotency key belongs to another request"


class ServiceUnavailable(Problem):
    """A part that the request needs does not answer at the moment."""

    status, code, title = 503, "service_unavailable", "A part of the service is down"
    retryable = True

    def __init__(self, detail: str, **more: Any) -> None:
        super().__init__(detail, **{"headers": {"Retry-After": "5"}, **more})


class NotReady(ServiceUnavailable):
    """A part without which nothing can be served is down."""

    code, title = "not_ready", "The service is not ready"


class StorageFull(Problem):
    """The object store has no room left."""

    status, code, title = 507, "storage_full", "The service has no room for the file"
    retryable = True


RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is wrong.", "content": {MEDIA_TYPE: {}}},
    "5XX": {"description": "The service failed or is down.", "content": {MEDIA_TYPE: {}}},
}
"""Declared on every operation; `app.openapi` points their content at the `Problem` schema."""


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(OperationalError, _answer_database)
    app.add_exception_handler(DataError, _answer_unstorable)


def unknown_job(job_id: str) -> NotFound:
    """There is no such job, or it is another tenant's: the two look the same."""
    return NotFound(f"There is no job {job_id[:64]!r}.", remedy="See GET /v1/jobs for the ids.")


def unexpected() -> Problem:
    """What a client is told when the service has a bug: nothing of its inside."""
    return Problem(
        "An unexpected error happened; it was logged under the request id.",
        remedy="Try again; if it happens again, report the request id.",
    )


def response(problem: Problem, request_id: str | None) -> JSONResponse:
    """The HTTP answer for `problem`."""
    document = ProblemDocument(
        type=f"urn:axforge:problem:{problem.code}",
        title=problem.title,
        status=problem.status,
        code=problem.code,
        detail=problem.detail,
        remedy=problem.remedy,
        errors=list(problem.errors),
        retryable=problem.retryable,
        request_id=request_id,
    )
    return JSONResponse(
        document.model_dump(mode="json", exclude_none=True),
        status_code=problem.status,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )


async def _answer_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return _respond(request, error)


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = parameter_problems(error.errors())
    return _respond(request, InvalidRequest(errors[0].detail, errors=errors))


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _respond(request, _from_http(request, error))


async def _answer_database(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OperationalError)
    log.error("database_unavailable", error=str(error.orig))
    return _respond(request, ServiceUnavailable("The database does not answer.", remedy="Try again later."))


async def _answer_unstorable(request: Request, error: Exception) -> JSONResponse:
    # Postgres keeps no NUL in a text, so nothing it stores can have such an id or name.
    return _respond(request, InvalidRequest("A value is no text that can be stored."))


def _respond(request: Request, problem: Problem) -> JSONResponse:
    return response(problem, getattr(request.state, "request_id", None))


def _from_http(request: Request, error: HTTPException) -> Problem:
    if error.status_code == 404:
        return NotFound(
            f"Nothing is served at {request.url.path}.", remedy="See /openapi.json for the paths."
        )
    if error.status_code == 405:
        allowed = _allowed_methods(request)
        return MethodNotAllowed(
            f"{request.method} is not allowed on {request.url.path}.",
            remedy=f"Allowed: {allowed}.",
            headers={"Allow": allowed},
        )
    if error.status_code == 413:
        return TooLarge("The body is too large.")
    if 400 <= error.status_code < 500:
        return MalformedBody(str(error.detail))
    return unexpected()


def _allowed_methods(request: Request) -> str:
    """Of all routes at this path; the router itself names those of the first one only."""
    routes = request.app.router.routes
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    return ", ".join(
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )
