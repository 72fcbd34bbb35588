"""The Pareto front of a job's candidates: those that no other one beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from models.spec import metric_value
from models.spec.front import pareto_front

Point = tuple[float, float, float]


def on_front(candidates: Iterable[tuple[int, Mapping[str, Any]]], metric: str) -> frozenset[int]:
    """Of candidates as number and measurements, scored by `metric`: the numbers of those on the front.

    A candidate is on it unless another one is at least as good in metric, bytes and milliseconds and better
    in one of them. Only those count that were measured as files.
    """
    points = {number: point for number, told in candidates if (point := _point(told, metric)) is not None}
    front = pareto_front(list(points.values()))
    return frozenset(number for number, on_it in zip(points, front, strict=True) if on_it)


def _point(told: Mapping[str, Any], metric: str) -> Point | None:
    """Each the lower the better; None where something was not measured."""
    value, size, ms = (told.get(key) for key in ("metric", "size_bytes", "latency_ms"))
    if told.get("latency_source") != "measured" or value is None or size is None or ms is None:
        return None
    return -metric_value(metric, float(value)), float(size), float(ms)
