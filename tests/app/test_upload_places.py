"""Uploads that take for ever hold up their own tenant, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.keys.schemas import CreatedApiKey
from app.settings import ApiSettings
from tests.app.conftest import bearer

NAMED = {"kind": "dataset", "filename": "data.csv"}
SECONDS = 20.0


def test_slow_uploads_of_one_tenant_leave_room_for_others(
    application: Callable[..., FastAPI], make_key: Callable[..., CreatedApiKey]
) -> None:
    slow, other = make_key(tenant="slow"), make_key(tenant="other")
    served = application(ApiSettings(upload_concurrency=4))

    async def attack() -> tuple[list[int], int, int]:
        over = asyncio.Event()
        begun: list[None] = []

        async def drip() -> AsyncIterator[bytes]:
            begun.append(None)
            yield b"text,label\n"
            await over.wait()
            yield b"good,1\n"

        transport = httpx.ASGITransport(served)
        async with (
            served.router.lifespan_context(served),
            httpx.AsyncClient(transport=transport, base_url="http://testserver") as client,
        ):

            def upload(key: CreatedApiKey, content: Any) -> asyncio.Task[httpx.Response]:
                sent = client.post("/v1/uploads", params=NAMED, content=content, headers=bearer(key))
                return asyncio.create_task(sent)

            attacking = [upload(slow, drip()) for _ in range(6)]
            while len(begun) < 2:
                await asyncio.sleep(0.01)
            passed = await asyncio.wait_for(upload(other, b"text,label\ngood,1\n"), SECONDS)
            at_once = len(begun)
            over.set()
            ended = await asyncio.wait_for(asyncio.gather(*attacking), SECONDS)
        return [answer.status_code for answer in ended], passed.status_code, at_once

    slow_ones, passed, at_once = asyncio.run(attack())
    assert passed == 201
    assert at_once == 2
    assert slow_ones == [201] * 6


@pytest.mark.parametrize("places", [1, 2])
def test_few_places_are_enough_to_upload(
    application: Callable[..., FastAPI], make_key: Callable[..., CreatedApiKey], places: int
) -> None:
    headers = bearer(make_key())
    served = application(ApiSettings(upload_concurrency=places))

    async def upload() -> int:
        transport = httpx.ASGITransport(served)
        async with (
            served.router.lifespan_context(served),
            httpx.AsyncClient(transport=transport, base_url="http://testserver") as client,
        ):
            answer = await client.post("/v1/uploads", params=NAMED, content=b"a,b\n", headers=headers)
        return answer.status_code

    assert asyncio.run(upload()) == 201


@pytest.mark.parametrize("what", ["uploads", "jobs"])
def test_body_that_stops_coming_is_ended(application: Callable[..., FastAPI], what: str) -> None:
    """Nothing is kept, and the place is free again."""
    served = application(ApiSettings(upload_concurrency=1, body_idle_seconds=0.1))
    sent_as = {"uploads": "application/octet-stream", "jobs": "application/json"}

    async def stall() -> AsyncIterator[bytes]:
        yield b'{"name":'
        await asyncio.Event().wait()

    async def attack() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(served, client=("127.0.0.1", 1))
        async with (
            served.router.lifespan_context(served),
            httpx.AsyncClient(transport=transport, base_url="http://testserver") as client,
        ):
            headers = {"Content-Type": sent_as[what]}
            path = f"/v1/{what}"
            params = NAMED if what == "uploads" else None
            stalled = client.post(path, params=params, content=stall(), headers=headers)
            ended = await asyncio.wait_for(stalled, SECONDS)
            whole = client.post("/v1/uploads", params=NAMED, content=b"text,label\ngood,1\n")
            return ended, await asyncio.wait_for(whole, SECONDS)

    ended, whole = asyncio.run(attack())
    assert (ended.status_code, ended.json()["code"]) == (408, "body_stalled")
    assert ended.headers["connection"] == "close"
    assert whole.status_code == 201
