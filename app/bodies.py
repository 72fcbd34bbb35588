"""Reading a request's body within limits, JSON or YAML out of it, and what that should be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NoReturn, TypeVar

import yaml
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from app.pointers import body_problems
from app.problems import BodyStalled, InvalidRequest, MalformedBody, TooLarge, UnsupportedMediaType

Model = TypeVar("Model", bound=BaseModel)
JSON_TYPES = ("application/json",)
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")


def announced_length(request: Request) -> int | None:
    """What the client says of the body's length, if it is a length."""
    told = request.headers.get("content-length", "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 20 else None


async def bounded_chunks(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body as it arrives.

    Raises:
        TooLarge: it is longer than `max_bytes`, or says that it will be.
        MalformedBody: the client went away before its end.
        BodyStalled: nothing more of it came for too long.
    """
    if (announced_length(request) or 0) > max_bytes:
        raise _too_large(max_bytes)
    received = 0
    try:
        async for chunk in _unless_stalled(request.stream(), request.app.state.context.api.body_idle_seconds):
            received += len(chunk)
            if received > max_bytes:
                raise _too_large(max_bytes)
            if chunk:
                yield chunk
    except ClientDisconnect as error:
        raise MalformedBody("The body ended before it was complete.") from error


async def read_document(request: Request, max_bytes: int) -> Any:
    """The JSON or YAML document that the body holds.

    Raises:
        UnsupportedMediaType: it is said to be something else.
        MalformedBody: it is not what it is said to be.
        TooLarge: it is longer than `max_bytes`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in JSON_TYPES + YAML_TYPES:
        raise UnsupportedMediaType(
            f"A body of type {media_type[:60]!r} is not taken here."
            if media_type
            else "The request does not say of what type its body is.",
            remedy="Send JSON with `Content-Type: application/json`, or YAML with `application/yaml`.",
        )
    raw = b"".join([chunk async for chunk in bounded_chunks(request, max_bytes)])
    return parse_json(raw) if media_type in JSON_TYPES else parse_yaml(raw)


def validated(model: type[Model], document: Any) -> Model:
    """The document as `model`.

    Raises:
        InvalidRequest: with a pointer to every field that is wrong.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = body_problems(error, model, document)
        more = f" ({len(problems)} fields are wrong)" if len(problems) > 1 else ""
        where = f"{problems[0].pointer}: " if problems[0].pointer else ""
        raise InvalidRequest(
            f"{where}{problems[0].detail}{more}", remedy=problems[0].remedy, errors=problems
        ) from error


async def _unless_stalled(chunks: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """`chunks` as they come, each within `seconds`: who holds a place and sends nothing loses it."""
    while True:
        try:
            async with asyncio.timeout(seconds):
                chunk = await anext(chunks, None)
        except TimeoutError as error:
            raise BodyStalled(
                f"Nothing more of the body came for {seconds:g} seconds.",
                remedy="Send it again, whole.",
                headers={"Connection": "close"},
            ) from error
        if chunk is None:
            return
        yield chunk


def parse_json(raw: bytes) -> Any:
    """JSON as RFC 8259 has it: UTF-8, no NaN, no name twice in an object."""
    try:
        document = json.loads(
            raw.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_unique_names
        )
        _check_text(document)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"The body is not JSON: {_reason(error)}.") from error
    return document


def parse_yaml(raw: bytes) -> Any:
    """One YAML document of plain data; tags, anchors and aliases are refused."""
    try:
        document = yaml.load(raw.decode("utf-8-sig"), Loader=_PlainLoader)
        _check_text(document)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise MalformedBody(f"The body is not YAML: {_reason(error)}.") from error
    return document


class _PlainLoader(yaml.SafeLoader):
    """A few bytes of aliases may stand for gigabytes, so there are none; nor is a name given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="anchors and aliases are not taken")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            raise yaml.constructor.ConstructorError(
                None, None, "a name is given twice in one mapping", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _check_text(document: Any) -> None:
    """Half a surrogate pair can be escaped in both languages, but be written in no encoding.

    Raises:
        UnicodeEncodeError: there is one in a name or a text.
        TypeError: a name is no plain value.
    """
    json.dumps(document, ensure_ascii=False, default=str).encode()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return document


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return f"{error.problem or 'it cannot be parsed'}{place}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "it holds half a surrogate pair"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)[:200]


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body is larger than {max_bytes} bytes, the most that is taken here.")
