"""What is told of constraints that are missed."""

from __future__ import annotations

from typing import Any

import pytest

from models.spec import Constraints, Recipe
from worker.engine.measure.verdict import told_nearest
from worker.engine.stages.nearest import nearest_of, out_of_reach
from worker.engine.stages.rungs import Rung, best_of


def rung(metric: float, speedup: float, size: int, *missed: str) -> Rung:
    return Rung(
        0, Recipe(), metric, speedup, 10.0 / speedup, size, dict.fromkeys(missed, 0.1), True, 1.0, 1.0
    )


def nearest(asked: dict[str, Any], *rungs: Rung) -> dict[str, float]:
    constraints = Constraints.model_validate(asked)
    return nearest_of(constraints, rungs, dense_metric=0.8, dense_bytes=1000, batch_size=2)


def test_the_best_of_those_that_hold_the_others_counts() -> None:
    found = nearest(
        {"accuracy": {"max_relative_drop": 0.01, "confidence": 0.9}, "speed": {"min_speedup": 4.0}},
        rung(0.8, 2.0, 100, "speed.min_speedup"),
        rung(0.795, 3.4, 100, "speed.min_speedup"),
        rung(0.4, 5.0, 100, "accuracy.max_relative_drop"),
    )
    assert found == {"speed.min_speedup": 3.4, "accuracy.max_relative_drop": pytest.approx(0.5)}


def test_where_none_holds_the_others_all_count() -> None:
    found = nearest(
        {"size": {"max_bytes": 300}, "speed": {"min_throughput": 1e4, "percentile": "p95"}},
        rung(0.6, 2.0, 500, "size.max_bytes", "speed.min_throughput"),
        rung(0.7, 4.0, 400, "size.max_bytes", "speed.min_throughput"),
    )
    assert found == {"size.max_bytes": 400.0, "speed.min_throughput": pytest.approx(1e3 * 2 / 2.5)}


def test_bounds_beyond_everything_removed_are_told() -> None:
    asked = Constraints.model_validate({"speed": {"min_speedup": 8.0}, "size": {"min_reduction": 3.0}})
    (told,) = out_of_reach(asked, {"speedup": 3.5, "size_reduction": 9.0}, {"speed.min_speedup"})
    assert told.startswith("speed.min_speedup 8 is out of reach")
    assert "3.50 times faster" in told
    assert out_of_reach(asked, {"speedup": 3.5, "size_reduction": 2.0}, set()) == []


def test_what_is_missed_is_told_with_its_nearest() -> None:
    (told,) = told_nearest({"speed.min_speedup": 3.4})
    assert told.startswith("speed.min_speedup is missed")
    assert "3.4 on the selection split" in told


def test_balanced_takes_the_rung_that_gains_most_of_both() -> None:
    fast, small, both = rung(0.8, 6.0, 300), rung(0.8, 2.0, 90), rung(0.8, 4.0, 130)
    assert best_of([fast, small, both], "balanced") is both
