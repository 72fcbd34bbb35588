"""What can go wrong between the client and the service, as types a caller can tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class AxforgeError(Exception):
    """Base of every error that this package raises on purpose."""


class SpecError(AxforgeError):
    """A job spec cannot be read or names local files that are not there.

    `pointer` (RFC 6901) names the field, when there is one.
    """

    def __init__(self, message: str, *, pointer: str | None = None) -> None:
        super().__init__(message)
        self.pointer = pointer


class ConnectionFailed(AxforgeError):
    """The server did not answer, after all retries."""


class IntegrityError(AxforgeError):
    """A downloaded file is not the one that the server announced; it was not kept."""


class UnsafeName(AxforgeError):
    """An artifact's name would have been written outside the download folder; nothing was written."""


class WaitTimeout(AxforgeError):
    """The job was not done in time. It goes on at the server."""


@dataclass(frozen=True)
class FieldError:
    """One thing that is wrong in a request, where it is, and what would be right.

    `where` is an RFC 6901 pointer into the body, or the name of a query or header parameter.
    """

    where: str
    detail: str
    remedy: str | None = None


class ProblemError(AxforgeError):
    """An answer of the server in the form of RFC 9457 (or any other answer that is an error).

    `code` is stable and meant for programs; `remedy` says what would be right, `errors` the same for
    each field; `retryable` says that the same request may succeed later, after `retry_after` seconds
    where the server said so.
    """

    def __init__(
        self,
        *,
        code: str,
        status: int,
        title: str,
        detail: str = "",
        remedy: str | None = None,
        errors: Sequence[FieldError] = (),
        request_id: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.code = code
        self.status = status
        self.title = title
        self.detail = detail
        self.remedy = remedy
        self.errors = tuple(errors)
        self.request_id = request_id
        self.retryable = retryable
        self.retry_after = retry_after

    @classmethod
    def from_document(
        cls,
        document: Mapping[str, Any],
        *,
        status: int,
        reason: str = "",
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> ProblemError:
        """From a problem document; what it leaves out is filled from the response's status line."""
        found = document.get("errors")
        items = found if isinstance(found, list) else []
        return cls(
            code=str(document.get("code") or f"http_{status}"),
            status=status,
            title=str(document.get("title") or reason or f"HTTP {status}"),
            detail=str(document.get("detail") or ""),
            remedy=_text(document.get("remedy")),
            errors=[_field_error(item) for item in items if isinstance(item, Mapping)],
            request_id=_text(document.get("request_id")) or request_id,
            retryable=bool(document.get("retryable", False)),
            retry_after=retry_after,
        )


def _field_error(item: Mapping[str, Any]) -> FieldError:
    return FieldError(
        where=_text(item.get("pointer")) or _text(item.get("parameter")) or "",
        detail=_text(item.get("detail")) or "",
        remedy=_text(item.get("remedy")),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
