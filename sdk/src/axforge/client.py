"""The Python client of an axforge server."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast, overload

import httpx

from axforge import downloads, packing, specs
from axforge.answers import job_path, read
from axforge.errors import AxforgeError, IntegrityError, WaitTimeout
from axforge.following import EventFollower
from axforge.keys import Keys
from axforge.paging import PAGE, pages
from axforge.retries import RetryPolicy
from axforge.specs import LocalFiles, Spec
from axforge.transport import Transport
from axforge.types import (
    Artifact,
    ArtifactList,
    Candidate,
    CandidateList,
    Capabilities,
    Event,
    EventList,
    Job,
    JobList,
    Plan,
    Upload,
)
from axforge.webhooks import Webhooks

DEFAULT_SERVER = "http://127.0.0.1:8000"
CERTIFICATE = "certificate.json"
LONG_POLL = 20.0


class Client:
    """One server, seen by one user. Close it, or use it as a context manager.

    Args:
        base_url: Address of the server; the environment's AXFORGE_URL, or this machine, if left out.
        api_key: Sent as a bearer token; the environment's AXFORGE_API_KEY if left out.
        timeout: Seconds that the server may take to answer. Transfers of files take as long as they take.
        policy: When and how often requests that may be repeated are repeated.

    Every method raises `ProblemError` for an answer that is an error, and `ConnectionFailed` when
    there is none. Not thread-safe in what it waits for; a client for each thread is cheap.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        policy: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._policy = policy or RetryPolicy()
        self._timeout = timeout
        self._transport = Transport(
            base_url or os.environ.get("AXFORGE_URL") or DEFAULT_SERVER,
            api_key or os.environ.get("AXFORGE_API_KEY"),
            timeout=timeout,
            policy=self._policy,
            transport=transport,
            sleep=sleep,
        )

    @property
    def base_url(self) -> str:
        """Address of the server."""
        return self._transport.base_url

    @property
    def keys(self) -> Keys:
        """The API keys of your tenant."""
        return Keys(self._transport)

    @property
    def webhooks(self) -> Webhooks:
        """Addresses of yours that the server tells when a job ends."""
        return Webhooks(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._transport.close()

    @overload
    def create_job(
        self,
        spec: Spec,
        *,
        dry_run: Literal[False] = False,
        local_files: LocalFiles = "auto",
        idempotency_key: str | None = None,
    ) -> Job: ...

    @overload
    def create_job(
        self,
        spec: Spec,
        *,
        dry_run: Literal[True],
        local_files: LocalFiles = "auto",
        idempotency_key: str | None = None,
    ) -> Plan: ...

    def create_job(
        self,
        spec: Spec,
        *,
        dry_run: bool = False,
        local_files: LocalFiles = "auto",
        idempotency_key: str | None = None,
    ) -> Job | Plan:
        """Create a job; with `dry_run`, only validate and plan it.

        `spec` is a document, YAML text or the path of a YAML file; `local_files` says what is done
        with its `path` sources (see `LocalFiles`). The request carries an idempotency key, your own
        or a fresh one, so a retry after a broken connection does not create a second job.
        Raises `SpecError` for a spec that cannot be read.
        """
        document, folder = specs.read(spec)
        document = specs.settle_paths(
            document,
            folder,
            local_files,
            server=self.base_url,
            upload=lambda path, kind: self.upload(path, kind).id,
        )
        response = self._transport.create(
            "/v1/jobs",
            json=document,
            params={"dry_run": "true"} if dry_run else None,
            key=idempotency_key,
        )
        return read(Plan, response) if dry_run else read(Job, response)

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return read(Job, self._transport.request("GET", job_path(job_id)))

    def wait(
        self,
        job_id: str,
        *,
        on_progress: Callable[[Job], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
        on_candidate: Callable[[Candidate], None] | None = None,
        timeout: float | None = None,
        poll: float = LONG_POLL,
    ) -> Job:
        """The job once it is done.

        The callbacks are told every change of the job, and its events and candidates in order.
        `poll` is how many seconds the server may hold a request back. Raises `WaitTimeout` after
        `timeout` seconds; the job goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        last_event, last_candidate, etag = 0, -1, None
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(f"{job_id} was not done after {timeout:g} seconds; the server goes on")
            response = self._long_poll(job_id, etag, poll if left is None else min(poll, left))
            if response.status_code == httpx.codes.NOT_MODIFIED:
                continue
            job, etag = read(Job, response), response.headers.get("etag")
            if on_event is not None:
                for event in self.events(job_id, after=last_event):
                    last_event = event.id
                    on_event(event)
            if on_candidate is not None:
                for candidate in self.candidates(job_id, after=last_candidate):
                    last_candidate = candidate.number
                    on_candidate(candidate)
            if on_progress is not None:
                on_progress(job)
            if job.done:
                return job

    def jobs(
        self,
        *,
        status: str | Sequence[str] | None = None,
        name: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Jobs of these statuses and this name, the newest first, fetched by the page; at most `limit`."""
        parameters = {"status": status, "name": name}
        for page in pages(self._transport, JobList, "/v1/jobs", params=parameters, limit=limit):
            yield from page.data

    def cancel(self, job_id: str) -> Job:
        """Ask for the job's end; a run that has begun stops at its next step."""
        response = self._transport.request("POST", f"{job_path(job_id)}/cancel", idempotent=True)
        return read(Job, response)

    def delete(self, job_id: str) -> None:
        """Delete a job that is done, with its events, candidates and files."""
        self._transport.request("DELETE", job_path(job_id))

    def events(self, job_id: str, after: int = 0) -> list[Event]:
        """What happened to the job after event `after`, the oldest first."""
        found: list[Event] = []
        while True:
            parameters = {"after": found[-1].id if found else after, "limit": PAGE}
            response = self._transport.request("GET", f"{job_path(job_id)}/events", params=parameters)
            page = read(EventList, response)
            found += page.data
            if not page.has_more or not page.data:
                return found

    def stream_events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """Events from `after` on as they happen, until the job is done.

        A broken connection is taken up where it broke (`Last-Event-ID`), as often as it takes as
        long as something arrives in between; a server or proxy that does not stream is polled.
        """
        return EventFollower(self, self._transport, self._policy, job_id, after).follow()

    def candidates(self, job_id: str, after: int = -1) -> list[Candidate]:
        """What the job tried, from number `after` + 1 on."""
        found: list[Candidate] = []
        while True:
            parameters = {"after": found[-1].number if found else after, "limit": PAGE}
            response = self._transport.request("GET", f"{job_path(job_id)}/candidates", params=parameters)
            page = read(CandidateList, response)
            found += page.data
            if not page.has_more or not page.data:
                return found

    def export_candidate(self, job_id: str, number: int, *, idempotency_key: str | None = None) -> Job:
        """The job that exports and certifies a candidate which `job_id` has trained and not delivered.

        Wait for it and download its files as those of any job. Asking again gives the same job.
        """
        path = f"{job_path(job_id)}/candidates/{number}/export"
        return read(Job, self._transport.create(path, json=None, key=idempotency_key))

    def artifacts(self, job_id: str) -> list[Artifact]:
        """The files that the job delivered, by name."""
        return read(ArtifactList, self._transport.request("GET", f"{job_path(job_id)}/artifacts")).data

    def certificate(self, job_id: str) -> dict[str, Any] | None:
        """The certificate of a job that delivered one, from its file `certificate.json`."""
        for artifact in self.artifacts(job_id):
            if artifact.name == CERTIFICATE:
                content = self._transport.request("GET", artifact.url).content
                if hashlib.sha256(content).hexdigest() != artifact.sha256:
                    raise IntegrityError(f"{job_id}: {CERTIFICATE} is not the file that was announced")
                return cast("dict[str, Any]", json.loads(content))
        return None

    def download(
        self,
        job_id: str,
        folder: str | Path,
        *,
        names: list[str] | None = None,
        on_bytes: Callable[[Artifact, int], None] | None = None,
    ) -> list[Path]:
        """Fetch the job's files (or those called `names`) into `folder`; returns where they are.

        A file that is there already is not fetched again, a part of one is gone on from. Each is
        kept only if its sha256 is the announced one. Raises `UnsafeName` before anything is written
        if a name leads out of `folder`, `IntegrityError` for wrong content.
        """
        found = self.artifacts(job_id)
        missing = sorted(set(names or ()) - {artifact.name for artifact in found})
        if missing:
            raise AxforgeError(f"{job_id} has no file {', '.join(missing)}")
        wanted = [artifact for artifact in found if names is None or artifact.name in names]
        root = Path(folder)
        targets = [downloads.target_path(root, artifact.name) for artifact in wanted]
        for artifact, target in zip(wanted, targets, strict=True):
            downloads.fetch(
                self._transport,
                artifact.url,
                target,
                sha256=artifact.sha256,
                policy=self._policy,
                on_bytes=_told(artifact, on_bytes),
            )
        return targets

    def upload(self, path: str | Path, kind: Literal["model", "dataset"]) -> Upload:
        """Send a file, or a folder as a tar.gz, without loading it into memory.

        The server refuses it if its digest changed on the way. Hidden files and pickled weights of a
        folder stay behind. Raises `SpecError` when there is nothing to send.
        """
        with packing.parcel(Path(path)) as parcel:
            response = self._transport.send_file(
                "/v1/uploads",
                parcel.file,
                params={"kind": kind, "filename": parcel.name, "sha256": parcel.sha256()},
                timeout=httpx.Timeout(self._timeout, read=None, write=None),
            )
        return read(Upload, response)

    def capabilities(self) -> Capabilities:
        """Tasks, architectures, approximations and strategies of the server, with their options."""
        return read(Capabilities, self._transport.request("GET", "/v1/capabilities"))

    def _long_poll(self, job_id: str, etag: str | None, seconds: float) -> httpx.Response:
        headers = {"If-None-Match": etag, "Prefer": f"wait={max(1, round(seconds))}"} if etag else {}
        began = time.monotonic()
        response = self._transport.request(
            "GET", job_path(job_id), headers=headers, timeout=self._timeout + seconds
        )
        too_soon = response.status_code == httpx.codes.NOT_MODIFIED and time.monotonic() - began < 1.0
        if too_soon:  # a proxy or server that does not hold requests back
            self._transport.pause(min(2.0, seconds))
        return response


def _told(
    artifact: Artifact, on_bytes: Callable[[Artifact, int], None] | None
) -> Callable[[int], None] | None:
    if on_bytes is None:
        return None
    return lambda present: on_bytes(artifact, present)
