"""Server-sent events: the text/event-stream format of the HTML standard, section 9.2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class Message:
    """One dispatched event: `id` is the last one seen, kept for the next connection."""

    id: str
    event: str
    data: str


def parse(chunks: Iterable[str], last_id: str = "") -> Iterator[Message]:
    """Messages of a text stream in chunks of any size; an unfinished last message is dropped."""
    event, data = "", list[str]()
    for line in _lines(chunks):
        if not line:
            if data:
                yield Message(id=last_id, event=event or "message", data="\n".join(data))
            event, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            event = value
        elif field == "id" and "\0" not in value:
            last_id = value


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Whole lines only. str.splitlines would also cut at U+2028, which JSON carries unescaped."""
    rest = ""
    for chunk in chunks:
        rest += chunk
        held = "\r" if rest.endswith("\r") else ""  # its \n may come with the next chunk
        *whole, rest = LINE_END.split(rest[: len(rest) - len(held)])
        rest += held
        yield from whole
    if rest.endswith("\r"):
        yield rest[:-1]
