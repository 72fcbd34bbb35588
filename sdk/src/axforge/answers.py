"""From answers to types, from ids to paths."""

from __future__ import annotations

import re
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from axforge.errors import AxforgeError, SpecError

Answer = TypeVar("Answer", bound=BaseModel)
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def read(model: type[Answer], response: httpx.Response) -> Answer:
    """The body as `model`; raises `AxforgeError` when the server is none of ours."""
    return parse(model, response.content, str(response.url.copy_with(query=None)))


def parse(model: type[Answer], document: bytes | str, origin: str) -> Answer:
    """A JSON document as `model`; raises `AxforgeError` naming its origin when it does not fit."""
    try:
        return model.model_validate_json(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise AxforgeError(
            f"{origin} answers something that is no {model.__name__} ({where}: {first['msg']}); "
            "is this an axforge server of version 0.1 or later?"
        ) from error


def job_path(job_id: str) -> str:
    """Path of a job."""
    return f"/v1/jobs/{checked_id(job_id, 'a job')}"


def checked_id(id: str, what: str) -> str:
    """An id is checked, since it becomes part of an address; raises `SpecError`."""
    if not ID.fullmatch(id):
        raise SpecError(f"{id!r} is not the id of {what}")
    return id
