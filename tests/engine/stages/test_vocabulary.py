"""When rows of the vocabulary go, and how many."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from models.spec import JobSpec, Recipe
from worker.engine.delivery import Delivered
from worker.engine.measure.probing import ModelFile
from worker.engine.run import Run
from worker.engine.stages.ranks import wants_lower_rank
from worker.engine.stages.vocabulary import best_table, wants_smaller_table

DENSE_BYTES = 1000


def run_of(**spec: Any) -> Run:
    document = {"base_model": {"path": "m"}, "dataset": {"path": "d"}, **spec}
    return cast(Run, SimpleNamespace(spec=JobSpec.model_validate(document)))


def form(metric: float, size_bytes: int) -> Delivered:
    return Delivered(Recipe(), ModelFile(Path("model")), size_bytes, np.zeros((1, 2), np.float32), metric)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"focus": "size"}, True),
        ({"focus": "speed"}, False),
        ({"focus": "accuracy"}, False),
        ({"focus": "speed", "constraints": {"size": {"min_reduction": 4.9}}}, False),
        ({"focus": "speed", "constraints": {"size": {"min_reduction": 6.0}}}, True),
        ({"focus": "accuracy", "constraints": {"size": {"max_bytes": 150}}}, True),
    ],
)
def test_the_table_is_made_smaller_for_size_only(spec: dict[str, Any], wanted: bool) -> None:
    assert wants_smaller_table(run_of(**spec), form(0.9, 200), DENSE_BYTES) == wanted


def test_rank_goes_only_for_a_bound() -> None:
    bounded = {"accuracy": {"max_relative_drop": 0.01}}
    assert not wants_lower_rank(run_of(focus="size"), form(0.9, 120), DENSE_BYTES)
    assert wants_lower_rank(run_of(focus="size", constraints=bounded), form(0.9, 120), DENSE_BYTES)
    assert not wants_lower_rank(run_of(focus="speed", constraints=bounded), form(0.9, 120), DENSE_BYTES)
    size = {"size": {"min_reduction": 9.0}}
    assert wants_lower_rank(run_of(focus="speed", constraints=size), form(0.9, 120), DENSE_BYTES)
    assert not wants_lower_rank(run_of(focus="speed", constraints=size), form(0.9, 100), DENSE_BYTES)


@pytest.mark.parametrize(
    ("small", "larger", "chosen"),
    [
        (0.896, 0.899, "task"),  # both cost less than half of what is allowed: the smaller
        (0.893, 0.897, "task-and-common"),
        (0.8925, 0.8935, "task-and-common"),  # both cost more than half: the more accurate
        (0.8, 0.85, None),
    ],
)
def test_the_smallest_that_costs_little(small: float, larger: float, chosen: str | None) -> None:
    run = run_of(constraints={"accuracy": {"max_absolute_drop": 0.01}})
    tried = {"task": form(small, 120), "task-and-common": form(larger, 140)}
    assert best_table(run, form(0.9, 200), tried) == chosen


def test_without_a_bound_on_accuracy_the_smallest() -> None:
    tried = {"task": form(0.5, 120), "task-and-common": form(0.8, 140)}
    assert best_table(run_of(), form(0.9, 200), tried) == "task"
    assert best_table(run_of(), form(0.9, 200), {}) is None


def test_a_metric_that_may_not_fall_below_a_bound() -> None:
    tried = {"task": form(0.84, 120), "task-and-common": form(0.88, 140)}
    run = run_of(constraints={"accuracy": {"min": 0.85}})
    assert best_table(run, form(0.9, 200), tried) == "task-and-common"
