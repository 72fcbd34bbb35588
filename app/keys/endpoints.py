"""`/v1/keys`: create, list, look up and revoke the tenant's API keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from app.auth import CurrentCaller, needs
from app.bodies import read_document
from app.context import Service, Tenant
from app.idempotency.service import Idempotent
from app.keys import service
from app.keys.schemas import ApiKey, ApiKeyList, CreatedApiKey
from app.pages import Cursor, Limit
from models.api_key import Scope

router = APIRouter(prefix="/v1/keys", tags=["keys"], dependencies=[needs(Scope.ADMIN)])

KeyId = Annotated[str, Path(max_length=64, description="Id of a key, such as `key_0190…`.")]
NEW_KEY: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/NewApiKey"}}


@router.post(
    "",
    operation_id="create_key",
    summary="Create an API key",
    status_code=201,
    response_model=CreatedApiKey,
    responses={
        201: {
            "description": "The key, with the secret that is shown this once.",
            "headers": {"Location": {"schema": {"type": "string"}, "description": "Path of the key."}},
        }
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": NEW_KEY, "application/yaml": NEW_KEY},
        }
    },
)
async def create_key(
    request: Request, context: Service, caller: CurrentCaller, idempotency: Idempotent
) -> Response:
    """A key of your own tenant. From the first key on, every request needs one."""
    wanted = service.read_new(await read_document(request, context.api.spec_max_bytes))
    answer = await run_in_threadpool(service.create_once, context, caller, wanted, idempotency)
    context.door.shut()
    return answer.response()


@router.get("", operation_id="list_keys", summary="List API keys")
def list_keys(context: Service, tenant: Tenant, cursor: Cursor = None, limit: Limit = 20) -> ApiKeyList:
    """The tenant's keys, revoked ones too, the newest first."""
    return service.page(context.database, tenant, cursor, limit)


@router.get("/{key_id}", operation_id="get_key", summary="Get an API key")
def get_key(context: Service, tenant: Tenant, key_id: KeyId) -> ApiKey:
    """What a key may be used for, and when it was."""
    return service.get(context.database, tenant, key_id)


@router.delete(
    "/{key_id}",
    operation_id="revoke_key",
    summary="Revoke an API key",
    status_code=204,
    response_class=Response,
)
def revoke_key(context: Service, caller: CurrentCaller, key_id: KeyId) -> None:
    """The next request with the key is refused; doing it again changes nothing."""
    service.revoke(context.database, caller, key_id)
