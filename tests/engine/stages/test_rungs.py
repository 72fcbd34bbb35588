from __future__ import annotations

from typing import Any

import pytest

from models.spec import AccuracyConstraint, Recipe
from worker.engine.stages.rungs import Rung, best_of, has_room


def rung(number: int, **measured: Any) -> Rung:
    defaults: dict[str, Any] = {
        "recipe": Recipe(),
        "metric": 0.9,
        "speedup": 3.0,
        "ms": 1.0,
        "size_bytes": 100,
        "violations": {},
        "comfortable": True,
        "training_seconds": 1.0,
        "measuring_seconds": 1.0,
    }
    return Rung(number=number, **(defaults | measured))


def test_the_comfortable_rung_furthest_in_the_focus_is_delivered() -> None:
    rungs = [rung(0), rung(1, speedup=3.5), rung(2, speedup=4.0, comfortable=False), rung(3, size_bytes=50)]
    assert best_of(rungs, "speed").number == 1
    assert best_of(rungs, "size").number == 3


def test_without_a_comfortable_one_accuracy_counts_and_without_any_the_nearest_miss() -> None:
    tight = [
        rung(0, comfortable=False, metric=0.89, speedup=4.0),
        rung(1, comfortable=False, metric=0.895),
        rung(2, violations={"speed.min_speedup": 0.1}, metric=0.99),
    ]
    assert best_of(tight, "speed").number == 1
    missed = [rung(0, violations={"size.min_reduction": 0.3}), rung(1, violations={"speed.min_speedup": 0.1})]
    assert best_of(missed, "speed").number == 1


def test_a_rung_survives_its_json() -> None:
    assert Rung.from_json(rung(1, violations={"a": 0.1}).to_json()) == rung(1, violations={"a": 0.1})


@pytest.mark.parametrize(
    ("constraint", "metric", "room"),
    [
        ({"max_relative_drop": 0.02}, 0.792, True),
        ({"max_relative_drop": 0.02}, 0.791, False),
        ({"max_absolute_drop": 0.1}, 0.75, True),
        ({"max_absolute_drop": 0.1}, 0.74, False),
        ({"max_absolute_drop": 0.1, "min": 0.78}, 0.785, False),
        ({"min_gain": 0.01}, 0.80, False),
        ({"min_gain": 0.01}, 0.81, True),
        ({}, 0.1, True),
        ({"max_relative_drop": 0.02, "confidence": 0.95}, 0.1, True),
    ],
)
def test_room_is_half_of_what_the_metric_may_lose(
    constraint: dict[str, Any], metric: float, room: bool
) -> None:
    assert has_room(AccuracyConstraint(**constraint), 0.8, metric) is room
