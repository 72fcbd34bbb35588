"""What can be done with API keys; by their tenants over HTTP, by the operator on the command line."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.audit import repository as audit
from app.caller import Caller
from app.context import Context
from app.idempotency.service import Answer, Keyed, once
from app.keys import repository, tokens
from app.keys.schemas import ApiKey, ApiKeyList, CreatedApiKey, NewApiKey
from app.pages import Position, cut, decode_cursor
from app.pointers import body_problems
from app.problems import InvalidRequest, NotFound
from models.api_key import ApiKey as ApiKeyRow
from models.api_key import Scope
from models.base import new_id, utc_now
from models.database import Database


def read_new(document: Any) -> NewApiKey:
    """What a body asks for.

    Raises:
        InvalidRequest: with a pointer to every field that is wrong.
    """
    try:
        return NewApiKey.model_validate(document)
    except ValidationError as error:
        problems = body_problems(error, NewApiKey, document)
        raise InvalidRequest(problems[0].detail, remedy=problems[0].remedy, errors=problems) from error


def create_once(context: Context, caller: Caller, wanted: NewApiKey, request: Keyed) -> Answer:
    """Store a key, once for an idempotency key. A replay does not hold the secret, which is not kept."""

    def act(session: Session) -> Answer:
        created = create(session, caller, wanted)
        headers = {"Location": f"/v1/keys/{created.id}", "Cache-Control": "no-store"}
        return Answer.shown_once(201, created, headers)

    return once(context, caller.tenant, request, wanted.model_dump_json(), act)


def create(session: Session, caller: Caller, wanted: NewApiKey) -> CreatedApiKey:
    """Store a key of the caller's tenant. The answer holds the secret, which nothing else does."""
    key_id = new_id("key")
    secret = tokens.mint(key_id)
    row = ApiKeyRow(
        id=key_id,
        tenant=caller.tenant,
        name=wanted.name,
        scopes=[scope.value for scope in wanted.scopes],
        prefix=tokens.prefix(secret),
        hash=tokens.digest(secret),
        created_at=utc_now(),
        expires_at=wanted.expires_at,
    )
    repository.add(session, row)
    audit.record(session, caller, "key.created", row.id, name=row.name, scopes=row.scopes)
    return CreatedApiKey(**_describe(row).model_dump(), secret=secret)


def get(database: Database, tenant: str, key_id: str) -> ApiKey:
    """The key of that id."""
    with database.session() as session:
        row = repository.find(session, tenant, key_id)
    if row is None:
        raise _unknown(key_id)
    return _describe(row)


def page(database: Database, tenant: str, cursor: str | None, limit: int) -> ApiKeyList:
    """A page of keys, revoked ones too, the newest first."""
    with database.session() as session:
        rows = repository.page(session, tenant, decode_cursor(cursor), limit + 1)
    shown, next_cursor = cut(rows, limit, lambda row: Position(row.created_at, row.id))
    return ApiKeyList(
        object="list",
        data=[_describe(row) for row in shown],
        has_more=next_cursor is not None,
        next_cursor=next_cursor,
    )


def revoke(database: Database, caller: Caller, key_id: str) -> None:
    """Let the key open nothing from now on; doing it again changes nothing."""
    with database.transaction() as session:
        row = repository.find(session, caller.tenant, key_id)
        if row is None:
            raise _unknown(key_id)
        if repository.revoke(session, key_id, utc_now()):
            audit.record(session, caller, "key.revoked", key_id, name=row.name)


def _unknown(key_id: str) -> NotFound:
    return NotFound(f"There is no API key {key_id[:64]!r}.", remedy="See GET /v1/keys for the ids.")


def _describe(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        object="api_key",
        name=row.name,
        scopes=[Scope(scope) for scope in row.scopes],
        prefix=row.prefix,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
