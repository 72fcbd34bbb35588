"""Entities in tags of the form IOB (O, B-type, I-type), by nervaluate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Entity(NamedTuple):
    """`first` and `last` are places of words."""

    type: str
    first: int
    last: int


def is_iob(tags: Sequence[str]) -> bool:
    """Whether all are of the form IOB, and some tell of an entity."""
    return all(tag == "O" or tag.startswith(("B-", "I-")) for tag in tags) and set(tags) != {"O"}


def entity_types(tags: Sequence[str]) -> tuple[str, ...]:
    """What entities such tags tell apart, sorted; nothing where they are of another form."""
    return tuple(sorted({tag[2:] for tag in tags if tag != "O"})) if is_iob(tags) else ()


def entities(rows: Sequence[Sequence[str]]) -> list[set[Entity]]:
    """Those of each row. An I-type that follows nothing of its type begins one, as in conlleval."""
    from nervaluate.loaders import ListLoader  # the engine must import without it

    loaded = ListLoader().load([list(row) for row in rows])
    return [{Entity(one.label, one.start, one.end) for one in row} for row in loaded]
