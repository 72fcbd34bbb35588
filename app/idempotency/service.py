"""Doing things once for a key: at once within a transaction, or over the time that a body takes to arrive."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.context import Context
from app.idempotency import repository
from app.problems import IdempotencyKeyInUse, IdempotencyKeyReused
from models.database import now
from models.idempotency import IdempotencyKey

HOLD_SECONDS = 60.0
RENEW_SECONDS = 15.0
REPLAYED = "Idempotency-Replayed"


@dataclass(frozen=True)
class Keyed:
    """A request that may be sent again: its key, if it has one, and what it asks for."""

    key: str | None
    operation: str

    def digest(self, payload: str) -> str:
        """Of all that makes two requests the same."""
        return hashlib.sha256(f"{self.operation}\n{payload}".encode()).hexdigest()


async def keyed(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="The same key and payload get the first answer again, however often they are sent.",
        ),
    ] = None,
) -> Keyed:
    """Every POST depends on this."""
    return Keyed(idempotency_key, f"{request.method} {request.url.path}")


Idempotent = Annotated[Keyed, Depends(keyed)]


@dataclass(frozen=True)
class Answer:
    """What is answered, as it is kept: `body` is JSON.

    `kept_body` is what a replay gets instead, where the body holds a secret that is shown once.
    """

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)
    kept_body: str | None = None
    replayed: bool = False

    @classmethod
    def shown_once(cls, status: int, document: BaseModel, headers: Mapping[str, str]) -> Answer:
        """One whose document has a `secret`, which a replay gives as null."""
        kept = document.model_copy(update={"secret": None})
        return cls(status, document.model_dump_json(), headers, kept_body=kept.model_dump_json())

    def response(self) -> Response:
        """As HTTP."""
        headers = {**self.headers, REPLAYED: "true"} if self.replayed else dict(self.headers)
        return Response(self.body, self.status, headers, media_type="application/json")


def once(
    context: Context, tenant: str, request: Keyed, payload: str, act: Callable[[Session], Answer]
) -> Answer:
    """Do `act` in one transaction with the record of the key, or give the answer of before.

    What `act` raises is not kept: the same key may be tried again.

    Raises:
        IdempotencyKeyReused: the key came with another request or payload.
        IdempotencyKeyInUse: the first request is under way.
    """
    try:
        return _once(context, tenant, request, payload, act)
    except IntegrityError:
        if request.key is None:
            raise
        # Another request with the same key was faster: this one is a replay of it.
        return _once(context, tenant, request, payload, act)


def was_answered(session: Session, tenant: str, request: Keyed) -> bool:
    """Whether the request's key has an answer, so that the request adds nothing."""
    known = None if request.key is None else repository.find(session, tenant, request.key)
    return known is not None and known.status is not None


class Reservation:
    """A key held by one request while its body arrives. Without a key nothing is held."""

    def __init__(self, context: Context, tenant: str, request: Keyed) -> None:
        self._context = context
        self._tenant = tenant
        self._request = request
        self._holder = secrets.token_hex(16)
        self._renew_at = time.monotonic() + RENEW_SECONDS
        self._settled = False
        self._before: IdempotencyKey | None = None

    @property
    def answered(self) -> bool:
        """Whether the key has an answer: the payload only needs to be compared, see `replay`."""
        return self._before is not None

    def replay(self, payload: str) -> Answer:
        """The answer of before. Raises IdempotencyKeyReused."""
        assert self._before is not None
        return _replay(self._before, self._request.digest(payload))

    def holding(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks; the key stays held while they come."""
        for chunk in chunks:
            if self._request.key is not None and time.monotonic() >= self._renew_at:
                self._renew()
            yield chunk

    def settle(self, session: Session, payload: str, answer: Answer) -> None:
        """Keep the answer, in the transaction that does what it tells.

        Raises:
            IdempotencyKeyInUse: this request was taken for dead, and another holds the key.
        """
        if self._request.key is None:
            return
        kept = answer.body if answer.kept_body is None else answer.kept_body
        if not repository.settle(
            session,
            self._tenant,
            self._request.key,
            self._holder,
            digest=self._request.digest(payload),
            status=answer.status,
            headers=dict(answer.headers),
            body=kept,
        ):
            raise _in_use()
        self._settled = True

    def _take(self) -> None:
        if self._request.key is None:
            return
        with self._context.database.transaction() as session:
            known = repository.find(session, self._tenant, self._request.key)
            if known is not None and known.status is not None:
                self._before = known
            elif known is not None and _is_held(session, known):
                raise _in_use()
            else:
                repository.take(session, self._tenant, self._request.key, self._holder, HOLD_SECONDS)

    def _renew(self) -> None:
        assert self._request.key is not None
        self._renew_at = time.monotonic() + RENEW_SECONDS
        with self._context.database.transaction() as session:
            if not repository.hold(session, self._tenant, self._request.key, self._holder, HOLD_SECONDS):
                raise _in_use()

    def _drop(self) -> None:
        if self._request.key is not None and not self._settled and not self.answered:
            with self._context.database.transaction() as session:
                repository.drop(session, self._tenant, self._request.key, self._holder)


@contextmanager
def reserved(context: Context, tenant: str, request: Keyed) -> Iterator[Reservation]:
    """Hold the request's key; given back at the end unless its answer was settled.

    Raises:
        IdempotencyKeyInUse: the first request with the key is under way.
    """
    reservation = Reservation(context, tenant, request)
    try:
        reservation._take()
    except IntegrityError as error:
        raise _in_use() from error
    try:
        yield reservation
    finally:
        reservation._drop()


def _once(
    context: Context, tenant: str, request: Keyed, payload: str, act: Callable[[Session], Answer]
) -> Answer:
    with context.database.transaction() as session:
        if request.key is None:
            return act(session)
        digest = request.digest(payload)
        known = repository.find(session, tenant, request.key)
        if known is not None and known.status is not None:
            return _replay(known, digest)
        if known is not None:
            if _is_held(session, known):
                raise _in_use()
            session.delete(known)
            session.flush()
        answer = act(session)
        kept = answer.body if answer.kept_body is None else answer.kept_body
        repository.add(
            session,
            IdempotencyKey(
                tenant=tenant,
                key=request.key,
                request_digest=digest,
                status=answer.status,
                headers=dict(answer.headers),
                body=kept,
            ),
        )
        return answer


def _replay(known: IdempotencyKey, digest: str) -> Answer:
    if known.request_digest != digest:
        raise IdempotencyKeyReused(
            "This idempotency key came with another request or payload before.",
            remedy="Use a new key for a new request.",
        )
    assert known.status is not None
    return Answer(known.status, known.body, known.headers, replayed=True)


def _is_held(session: Session, known: IdempotencyKey) -> bool:
    moment = session.execute(select(now(session))).scalar_one()
    return known.held_until is not None and known.held_until > moment


def _in_use() -> IdempotencyKeyInUse:
    return IdempotencyKeyInUse(
        "The first request with this idempotency key is under way.",
        remedy="Wait for it, then send this one again to get its answer.",
        headers={"Retry-After": "2"},
    )
