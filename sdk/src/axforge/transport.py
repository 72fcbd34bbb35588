"""HTTP to one server: authentication, retries, and errors as `ProblemError`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlsplit

import httpx

from axforge._version import __version__
from axforge.errors import AxforgeError, ConnectionFailed, ProblemError
from axforge.retries import RETRIED_STATUSES, RetryPolicy, retry_after_seconds

IDEMPOTENCY_KEY = "Idempotency-Key"
USER_AGENT = f"axforge-python/{__version__}"
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})


class Transport:
    """Requests with the server's address, the key and the retry policy filled in."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        timeout: float,
        policy: RetryPolicy,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        _refuse_strange_address(base_url)
        headers = {"User-Agent": USER_AGENT}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.base_url = base_url.rstrip("/")
        self._policy = policy
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=self.base_url, headers=headers, timeout=timeout, transport=transport
        )

    def close(self) -> None:
        self._http.close()

    def pause(self, seconds: float) -> None:
        """Wait between two polls."""
        self._sleep(seconds)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: object | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        idempotent: bool | None = None,
    ) -> httpx.Response:
        """Send, retry what may be retried, and return the answer (2xx or 304).

        Raises `ProblemError` for an error answer, `ConnectionFailed` when there was none.
        """
        request = self._http.build_request(
            method,
            _below_server(path),
            params=_given(params),
            json=json,
            headers=dict(headers or {}),
            timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout,
        )
        retriable = method in IDEMPOTENT_METHODS if idempotent is None else idempotent
        return self._send(lambda: request, retriable=retriable, stream=False)

    def create(
        self,
        path: str,
        *,
        json: object,
        params: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> httpx.Response:
        """POST that creates once however often it is sent: under `key`, or one of its own."""
        headers = {IDEMPOTENCY_KEY: key or str(uuid.uuid4())}
        return self.request("POST", path, params=params, json=json, headers=headers, idempotent=True)

    def send_file(
        self, path: str, file: IO[bytes], *, params: Mapping[str, str], timeout: httpx.Timeout
    ) -> httpx.Response:
        """POST the bytes of a seekable file, from its beginning at every attempt; it is kept once."""
        headers = {"Content-Type": "application/octet-stream", IDEMPOTENCY_KEY: str(uuid.uuid4())}

        def request() -> httpx.Request:
            file.seek(0)
            return self._http.build_request(
                "POST", path, params=params, content=file, headers=headers, timeout=timeout
            )

        return self._send(request, retriable=True, stream=False)

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: httpx.Timeout | None = None,
        accept: tuple[int, ...] = (),
    ) -> Iterator[httpx.Response]:
        """GET whose body is read by the caller; errors come before the first byte is handed over.

        `accept` names error statuses that the caller deals with itself.
        """
        request = self._http.build_request(
            "GET",
            _below_server(path),
            params=_given(params),
            headers=dict(headers or {}),
            timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout,
        )
        response = self._send(lambda: request, retriable=True, stream=True, accept=accept)
        try:
            yield response
        finally:
            response.close()

    def _send(
        self,
        request: Callable[[], httpx.Request],
        *,
        retriable: bool,
        stream: bool,
        accept: tuple[int, ...] = (),
    ) -> httpx.Response:
        attempt = 0
        while True:
            failure, asked = self._attempt(request(), stream=stream, accept=accept)
            if isinstance(failure, httpx.Response):
                return failure
            may_retry = isinstance(failure, ConnectionFailed) or _worth_retrying(failure)
            wait = self._policy.wait_before(attempt, asked) if retriable and may_retry else None
            if wait is None:
                raise failure
            self._sleep(wait)
            attempt += 1

    def _attempt(
        self, request: httpx.Request, *, stream: bool, accept: tuple[int, ...]
    ) -> tuple[httpx.Response | ConnectionFailed | ProblemError, float | None]:
        """The answer or the error of one attempt, and the seconds that the server asked to wait."""
        try:
            response = self._http.send(request, stream=stream, follow_redirects=_may_follow(request))
            expected = (httpx.codes.NOT_MODIFIED, *accept)
            if response.is_success or response.status_code in expected:
                return response, None
            response.read()
        except httpx.TransportError as error:
            return ConnectionFailed(self._unreachable(error)), None
        response.close()
        problem = problem_of(response)
        return problem, problem.retry_after

    def _unreachable(self, error: httpx.TransportError) -> str:
        if isinstance(error, httpx.ConnectError):
            return f"No server answers at {self.base_url} ({error}). Is it running, and is the address right?"
        reason = str(error) or type(error).__name__
        return f"The connection to {self.base_url} failed: {reason}"


def problem_of(response: httpx.Response) -> ProblemError:
    """The error that a response tells, in whatever form it comes."""
    try:
        document = response.json()
    except ValueError:
        document = {}
    return ProblemError.from_document(
        document if isinstance(document, dict) else {},
        status=response.status_code,
        reason=response.reason_phrase,
        request_id=response.headers.get("x-request-id"),
        retry_after=retry_after_seconds(response.headers),
    )


def _worth_retrying(problem: ConnectionFailed | ProblemError) -> bool:
    return isinstance(problem, ProblemError) and (problem.retryable or problem.status in RETRIED_STATUSES)


def _may_follow(request: httpx.Request) -> bool:
    """A download may be answered with a presigned address; nothing else is sent anywhere else.

    httpx drops the Authorization header when the redirect leaves the origin.
    """
    return request.method == "GET"


def _below_server(path: str) -> str:
    """A path as the server names it; an address elsewhere would be sent the key."""
    if not path.startswith("/") or path.startswith("//"):
        raise AxforgeError(f"the server names {path!r}, which is no path of its own")
    return path


def _given(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Parameters without those that are None."""
    return None if params is None else {key: value for key, value in params.items() if value is not None}


def _refuse_strange_address(base_url: str) -> None:
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise AxforgeError(
            f"The server's address {base_url!r} is not one; give something like http://127.0.0.1:8000."
        )
