"""Lists that the server gives out by the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from axforge.answers import read
from axforge.transport import Transport

PAGE = 100
Page = TypeVar("Page", bound=BaseModel)


def pages(
    transport: Transport,
    model: type[Page],
    path: str,
    *,
    params: Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> Iterator[Page]:
    """The pages of a list, one request each, until it ends or they hold `limit` entries.

    `model` is the document of a page: with `data`, `has_more` and `next_cursor`.
    """
    cursor: str | None = None
    given = 0
    while True:
        size = PAGE if limit is None else min(PAGE, limit - given)
        if size <= 0:
            return
        page: Any = read(
            model, transport.request("GET", path, params={**(params or {}), "cursor": cursor, "limit": size})
        )
        yield page
        entries: Sequence[Any] = page.data
        given += len(entries)
        cursor = page.next_cursor
        if not page.has_more or cursor is None:
            return
