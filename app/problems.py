"""One error tree, answered everywhere as RFC 9457 `application/problem+json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from app.methods import allowed_methods
from app.pointers import FieldProblem, parameter_problems
from app.quota_state import QuotaState
from models.database import UNANSWERED
from models.store import StoreError

MEDIA_TYPE = "application/problem+json"

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
    quota: QuotaState | None = Field(None, description="The numbers, where a quota is used up.")


class Problem(Exception):
    """Base of what is answered to a client; `detail` and `remedy` hold no secret and no path of the host."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "The service failed"
    retryable: ClassVar[bool] = False
    quota: QuotaState | None = None

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
        self.members: dict[str, Any] = {}


class MalformedBody(Problem):
    """The body cannot be read as what its Content-Type says."""

    status, code, title = 400, "malformed_body", "The body cannot be read"


class Unauthenticated(Problem):
    """No API key, or none that is valid."""

    status, code, title = 401, "unauthenticated", "A valid API key is needed"


class MissingScope(Problem):
    """The key is valid, but not for this. What other tenants have is a 404 instead, whatever the key."""

    status, code, title = 403, "missing_scope", "The API key is not for this"


class NotFound(Problem):
    """No such thing, or it is another tenant's."""

    status, code, title = 404, "not_found", "There is no such thing"


class MethodNotAllowed(Problem):
    """The path exists, with other methods."""

    status, code, title = 405, "method_not_allowed", "The method is not allowed here"


class BodyStalled(Problem):
    """The client stopped sending in the middle of the body."""

    status, code, title = 408, "body_stalled", "The body stopped coming"
    retryable = True


class JobDone(Problem):
    """The job has ended, so it cannot be cancelled."""

    status, code, title = 409, "job_done", "The job has ended"


class JobNotDone(Problem):
    """The job has not ended, so it cannot be deleted."""

    status, code, title = 409, "job_not_done", "The job has not ended"


class JobNotSucceeded(Problem):
    """The job has not ended well, so nothing can be exported of it."""

    status, code, title = 409, "job_not_succeeded", "The job has not succeeded"


class IdempotencyKeyInUse(Problem):
    """The first request with the key is under way."""

    status, code, title = 409, "idempotency_key_in_use", "The first request with the key is under way"
    retryable = True


class UploadInUse(Problem):
    """A job that has not ended refers to the upload."""

    status, code, title = 409, "upload_in_use", "The upload is in use"


class WebhookDisabled(Problem):
    """The webhook is disabled, so nothing is sent to it."""

    status, code, title = 409, "webhook_disabled", "The webhook is disabled"


class TooManyWebhooks(Problem):
    """There are as many webhooks as one may have."""

    status, code, title = 409, "too_many_webhooks", "There are too many webhooks"


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


class CandidateNotTrained(Problem):
    """The candidate has a recipe and no weights of its own."""

    status, code, title = 422, "candidate_not_trained", "The candidate was never trained"


class IdempotencyKeyReused(Problem):
    """The key was used before with another payload."""

    status, code, title = 422, "idempotency_key_reused", "The idempotency key belongs to another request"


class QuotaExceeded(Problem):
    """Base: the tenant has all that it may have. `quota` holds the numbers."""

    def __init__(self, quota: QuotaState, remedy: str, **more: Any) -> None:
        used = f"{quota.used:,.10g}"
        asked = f", and this would add {quota.asked:,}" if quota.asked is not None else ""
        detail = (
            f"The limit on {quota.name.replace('_', ' ')} is {quota.limit:,.10g}; in use are {used}{asked}."
        )
        super().__init__(detail, remedy=remedy, **more)
        self.quota = quota


class QueueQuotaExceeded(QuotaExceeded):
    """As many jobs are queued as the tenant may have."""

    status, code, title = 429, "queue_quota_exceeded", "Too many jobs are queued"
    retryable = True


class StorageQuotaExceeded(QuotaExceeded):
    """The tenant's uploads and artifacts leave no room for the file."""

    status, code, title = 403, "storage_quota_exceeded", "The storage quota is used up"


class ComputeQuotaExceeded(QuotaExceeded):
    """The tenant's runs took all the minutes that it has."""

    status, code, title = 403, "compute_quota_exceeded", "The compute quota is used up"


class RateLimited(Problem):
    """Requests come faster than the tenant may send them."""

    status, code, title = 429, "rate_limited", "Too many requests"
    retryable = True


class ServiceUnavailable(Problem):
    """A part that the request needs does not answer at the moment."""

    status, code, title = 503, "service_unavailable", "A part of the service is down"
    retryable = True

    def __init__(self, detail: str, **more: Any) -> None:
        super().__init__(detail, **{"headers": {"Retry-After": "5"}, **more})


class WebhooksOff(Problem):
    """The operator gave no key that webhooks could be signed with."""

    status, code, title = 503, "webhooks_off", "This service sends no webhooks"


class NotReady(ServiceUnavailable):
    """A part without which nothing can be served is down."""

    code, title = "not_ready", "The service is not ready"

    def __init__(self, detail: str, *, parts: list[dict[str, str]], remedy: str) -> None:
        super().__init__(detail, remedy=remedy)
        self.members = {"parts": parts}


class StorageFull(Problem):
    """The object store has no room left."""

    status, code, title = 507, "storage_full", "The service has no room for the file"
    retryable = True

    def __init__(self, detail: str, **more: Any) -> None:
        super().__init__(detail, **{"headers": {"Retry-After": "60"}, **more})


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
    for lost in UNANSWERED:
        app.add_exception_handler(lost, _answer_database)
    app.add_exception_handler(StoreError, _answer_store)
    app.add_exception_handler(NoConnectionFree, _answer_busy)
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
        quota=problem.quota,
    )
    return JSONResponse(
        document.model_dump(mode="json", exclude_none=True) | problem.members,
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
    assert isinstance(error, DBAPIError)
    log.error("database_unavailable", error=str(error.orig))
    return _respond(request, ServiceUnavailable("The database does not answer.", remedy="Try again later."))


async def _answer_busy(request: Request, error: Exception) -> JSONResponse:
    log.error("no_database_connection_free")
    return _respond(request, ServiceUnavailable("The service is busy.", remedy="Try again later."))


async def _answer_store(request: Request, error: Exception) -> JSONResponse:
    log.error("store_unavailable", error=str(error))
    return _respond(request, ServiceUnavailable("The object store failed.", remedy="Try again later."))


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
        allowed = allowed_methods(request)
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
