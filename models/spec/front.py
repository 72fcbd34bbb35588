"""The Pareto front of candidates: those that no other beats in everything at once."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """For each point whether it is on the front; every coordinate is better when smaller.

    A point is off the front when another is at least as good in every coordinate and better in one. Equal
    points are on it together.
    """
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    no_worse = all(a <= b for a, b in zip(one, other, strict=True))
    return no_worse and any(a < b for a, b in zip(one, other, strict=True))
