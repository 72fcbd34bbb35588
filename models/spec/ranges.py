"""Many indices as a short text: "0-127,256-1535"."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

LARGEST = 10_000_000


def as_ranges(indices: Sequence[int]) -> str:
    """Ascending indices as text; the empty text for none."""
    if not indices:
        return ""
    cuts = [0, *(at for at, (a, b) in enumerate(pairwise(indices), 1) if b != a + 1), len(indices)]
    spans = ((indices[start], indices[end - 1]) for start, end in pairwise(cuts))
    return ",".join(f"{first}-{last}" if first != last else f"{first}" for first, last in spans)


def from_ranges(text: str) -> tuple[int, ...]:
    """The inverse of `as_ranges`. Raises ValueError."""
    return tuple(index for first, last in _spans(text) for index in range(first, last + 1))


def _spans(text: str) -> list[tuple[int, int]]:
    parts = (part.partition("-") for part in text.split(",") if part)
    return [(int(first), int(last or first)) for first, _, last in parts]


def _ascending(text: str) -> str:
    edges = [edge for span in _spans(text) for edge in span]
    if any(first > last for first, last in _spans(text)) or any(
        end >= begin for end, begin in zip(edges[1::2], edges[2::2], strict=False)
    ):
        raise ValueError("give ascending ranges that do not overlap, such as 0-3,7")
    if edges[-1] > LARGEST:
        raise ValueError(f"indices go up to {LARGEST}")
    return text


Ranges = Annotated[
    str, StringConstraints(pattern=r"^\d{1,8}(-\d{1,8})?(,\d{1,8}(-\d{1,8})?)*$"), AfterValidator(_ascending)
]
"""At least one index, ascending, as `as_ranges` writes them."""
