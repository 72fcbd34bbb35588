"""Who is let in, and to what: API keys, and the one case in which none is needed.

A router declares its scope with `needs`, which lets the caller in unless its requests come too fast;
`CurrentCaller` and `Tenant` are what that found out. A route without a scope has no caller and cannot be
asked for anything of a tenant.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes
from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError

from app.audit import repository as audit
from app.caller import Caller
from app.keys import repository, tokens
from app.problems import MissingScope, Unauthenticated
from app.rates import RateLimits
from app.settings import Auth
from app.threads import DatabaseThreads
from models.api_key import Scope
from models.audit import AuditEvent
from models.base import utc_now
from models.database import Database
from models.job import DEFAULT_TENANT

USE_NOTED_EVERY = timedelta(minutes=1)
LOOK_SECONDS = 1.0
DENIALS_PER_MINUTE = 30
DENIALS_PER_ADDRESS = 5

CHALLENGE = 'Bearer realm="axforge"'
Clock = Callable[[], float]

log = structlog.get_logger(__name__)


class Door:
    """Tells callers from strangers. One a process.

    Args:
        clock: Seconds that only rise.
    """

    def __init__(
        self, database: Database, threads: DatabaseThreads, auth: Auth, *, clock: Clock = time.monotonic
    ) -> None:
        self._database = database
        self._threads = threads
        self._auth = auth
        self._clock = clock
        self._shut = auth is Auth.REQUIRED
        self._looked_at: float | None = None
        self._denials = _PerMinute(clock)

    def shut(self) -> None:
        """Ask everybody for a key from now on: there is one."""
        self._shut = True

    async def admit(self, request: Request, secret: str | None) -> Caller:
        """Whose request it is.

        Raises:
            Unauthenticated: nobody's who may call.
        """
        if secret is not None:
            return await self._holder(request, secret)
        if not await self._is_open():
            raise _no_key()
        if self._auth is not Auth.OPEN and not _is_from_this_machine(request):
            raise _only_this_machine()
        return Caller(DEFAULT_TENANT, None, frozenset(Scope), **_origin(request))

    async def still_admits(self, caller: Caller) -> bool:
        """Whether the caller would be let in again, for requests that go on for long."""
        try:
            if caller.key_id is None:
                return await self._is_open()
            key = await self._threads.read(self._find, caller.key_id)
        except DBAPIError as error:  # nothing new can be read for the caller meanwhile either
            log.warning("admission_not_known", reason=type(error).__name__)
            return True
        return key is not None and _refusal(key) is None

    def deny(self, request: Request, reason: str, tenant: str | None, key_id: str | None) -> None:
        """Record that a key was not enough, unless too many were lately: a flood must not fill the table."""
        origin = _origin(request)
        if not self._denials.admits(str(origin["address"])):
            return
        data = {"reason": reason}
        event = AuditEvent(tenant=tenant, key_id=key_id, action="access.denied", data=data, **origin)
        try:
            with self._database.transaction() as session:
                audit.add(session, event)
        except DBAPIError as error:
            log.warning("denial_not_recorded", reason=type(error).__name__)

    async def _is_open(self) -> bool:
        """Whether nobody needs a key yet. Once they do, that is never asked again."""
        now = self._clock()
        if not self._shut and (self._looked_at is None or now - self._looked_at >= LOOK_SECONDS):
            if await self._threads.read(self._any_exists):
                self._shut = True  # and never the reverse: a key may have been created meanwhile
            self._looked_at = now  # not before: others that come meanwhile must look for themselves
        return not self._shut

    def _any_exists(self) -> bool:
        with self._database.session() as session:
            return repository.any_exists(session)

    def _find(self, key_id: str) -> Row[Any] | None:
        with self._database.reading() as connection:
            return repository.of_any_tenant(connection, key_id)

    async def _holder(self, request: Request, secret: str) -> Caller:
        key_id = tokens.key_id(secret)
        key = await self._threads.read(self._find, key_id) if key_id else None
        if key is None or not tokens.is_same(secret, key.hash):
            reason = "unknown_key" if key is None else "wrong_secret"
            raise await self._refused(request, key, reason, "The API key is not one of this service.")
        refusal = _refusal(key)
        if refusal is not None:
            raise await self._refused(request, key, refusal, f"The API key is {refusal}.")
        if key.last_used_at is None or utc_now() - key.last_used_at >= USE_NOTED_EVERY:
            await self._threads.write(self._note_use, key.id)
        scopes = frozenset(Scope(scope) for scope in key.scopes)
        return Caller(key.tenant, key.id, scopes, **_origin(request))

    async def _refused(
        self, request: Request, key: Row[Any] | None, reason: str, detail: str
    ) -> Unauthenticated:
        tenant, key_id = (None, None) if key is None else (key.tenant, key.id)
        await self._threads.write(self.deny, request, reason, tenant, key_id)
        return Unauthenticated(
            detail,
            remedy="Send a key that is valid, whole and as it was shown when it was created.",
            headers={"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'},
        )

    def _note_use(self, key_id: str) -> None:
        now = utc_now()
        try:
            with self._database.transaction() as session:
                repository.note_use(session, key_id, now, now - USE_NOTED_EVERY)
        except DBAPIError as error:
            log.warning("use_of_key_not_noted", key_id=key_id, reason=type(error).__name__)


class _LetIn(HTTPBearer):
    """The dependency behind `needs`, and the security scheme as well: one costs less than two."""

    async def __call__(self, request: Request, scopes: SecurityScopes) -> None:  # type: ignore[override]
        context = request.app.state.context
        door, rates = context.door, context.rates
        assert isinstance(door, Door)
        assert isinstance(rates, RateLimits)
        credentials = await super().__call__(request)
        caller = await door.admit(request, credentials.credentials if credentials else None)
        request.state.answer_headers = await rates.admit(request, caller.key_id or caller.tenant)
        for scope in scopes.scopes:
            if scope not in caller.scopes:
                await context.threads.write(door.deny, request, "missing_scope", caller.tenant, caller.key_id)
                raise MissingScope(
                    f"The API key lacks the scope `{scope}`.",
                    remedy=f"Use a key that has it. This one has: {', '.join(sorted(caller.scopes))}.",
                    headers={"WWW-Authenticate": f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'},
                )
        request.state.caller = caller


_let_in = _LetIn(
    scheme_name="ApiKey",
    bearerFormat="axf_<id>_<random>",
    description="An API key. Not needed while none was ever created and the caller is on the same machine.",
    auto_error=False,
)


def needs(scope: Scope) -> Any:
    """A router's or route's dependency: its callers have a key of that scope."""
    return Security(_let_in, scopes=[scope.value])


async def caller_of(request: Request) -> Caller:
    """The caller that `needs` let in."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


CurrentCaller = Annotated[Caller, Depends(caller_of)]


def is_loopback(host: str | None) -> bool:
    """Whether a name or address means this machine only."""
    if host is None or host == "localhost":
        return host is not None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class _PerMinute:
    """How many of something are let through in a minute: in all, and of one origin."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._minute = -1
        self._counts: dict[str, int] = {}

    def admits(self, origin: str) -> bool:
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._minute, self._counts = minute, {}
        count = self._counts.get(origin, 0)
        if count >= DENIALS_PER_ADDRESS or sum(self._counts.values()) >= DENIALS_PER_MINUTE:
            return False
        self._counts[origin] = count + 1
        return True


def _refusal(key: Row[Any]) -> str | None:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if _is_past(key.expires_at) else None


def _is_past(moment: datetime | None) -> bool:
    return moment is not None and moment <= utc_now()


def _is_from_this_machine(request: Request) -> bool:
    """The connection is; and so is, by the names it used, the page of a browser that may have sent it.

    Without the look at Host and Origin, a page of the web could call a service on its reader's machine
    (DNS rebinding, cross-site requests).
    """
    peer = request.client.host if request.client else None
    origin = request.headers.get("origin")
    named = [f"//{request.headers.get('host', '')}", *([origin] if origin is not None else [])]
    return is_loopback(peer) and all(is_loopback(_host_in(address)) for address in named)


def _host_in(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _origin(request: Request) -> dict[str, Any]:
    return {
        "request_id": getattr(request.state, "request_id", None),
        "address": request.client.host if request.client else None,
    }


def _no_key() -> Unauthenticated:
    return Unauthenticated(
        "The request carries no API key.",
        remedy="Send `Authorization: Bearer` and your key; the command takes it from AXFORGE_API_KEY. "
        "One is created by who has a key with the scope `admin`, or by `axforge keys create` on the server.",
        headers={"WWW-Authenticate": CHALLENGE},
    )


def _only_this_machine() -> Unauthenticated:
    return Unauthenticated(
        "This service has no API keys yet, so it answers its own machine only.",
        remedy="On its machine, create a key (`axforge keys create`) and send it as `Authorization: Bearer`; "
        "or call it as 127.0.0.1 or localhost.",
        headers={"WWW-Authenticate": CHALLENGE},
    )
