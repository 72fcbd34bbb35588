"""When rows of the vocabulary go, and how many."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from models.spec import JobSpec, Recipe
from tests.engine.export_models import tiny_classifier
from worker.engine.anatomy import anatomy_of
from worker.engine.delivery import Delivered
from worker.engine.measure.probing import ModelFile
from worker.engine.run import Run
from worker.engine.stages.ranks import wants_lower_rank
from worker.engine.stages.vocabulary import best_table, layers_left, wants_smaller_table
from worker.engine.strategies.goal import MARGIN

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
    assert best_table(run, form(0.9, 200), form(0.9, DENSE_BYTES), tried) == chosen


def test_without_a_bound_on_accuracy_the_smallest() -> None:
    tried = {"task": form(0.5, 120), "task-and-common": form(0.8, 140)}
    assert best_table(run_of(), form(0.9, 200), form(0.9, DENSE_BYTES), tried) == "task"
    assert best_table(run_of(), form(0.9, 200), form(0.9, DENSE_BYTES), {}) is None


def test_a_metric_that_may_not_fall_below_a_bound() -> None:
    tried = {"task": form(0.84, 120), "task-and-common": form(0.88, 140)}
    run = run_of(constraints={"accuracy": {"min": 0.85}})
    assert best_table(run, form(0.9, 200), form(0.9, DENSE_BYTES), tried) == "task-and-common"


def test_what_rounding_gains_by_chance_is_not_asked_of_a_table() -> None:
    run = run_of(constraints={"accuracy": {"max_absolute_drop": 0.01}})
    tried = {"task": form(0.892, 120)}
    assert best_table(run, form(0.91, 200), form(0.9, DENSE_BYTES), tried) == "task"
    assert best_table(run, form(0.91, 200), form(0.91, DENSE_BYTES), tried) is None


@pytest.mark.parametrize(
    ("left", "metrics", "chosen"),
    [
        # Of the layers' bytes, what the bound has room for beside the whole table.
        (0.05, {"task": 0.86, "task-and-common": 0.87}, "task-and-common"),
        (0.05, {"task": 0.80, "task-and-common": 0.81}, None),  # lose more than the layers would
        (0.45, {"task": 0.86, "task-and-common": 0.87}, None),
        # What is tolerable counts as little as the rest where it leaves no room.
        (0.05, {"task": 0.893, "task-and-common": 0.894}, "task"),
    ],
)
def test_layers_that_would_have_to_go_count_against_a_table(
    left: float, metrics: dict[str, float], chosen: str | None
) -> None:
    anatomy = anatomy_of(tiny_classifier("bert"))
    full = anatomy.full_shape()
    layers = 4 * (anatomy.parameters(full) - anatomy.parameters(full.without_layers()))
    whole = 10 * layers
    dense = 4 * whole
    aim = whole - (1.0 - left) * layers  # what the search leaves unused of a bound is beyond it
    spec = {
        "accuracy": {"max_absolute_drop": 0.01},
        "size": {"max_bytes": round(aim / (1.0 - MARGIN / 10))},
    }
    run = cast(
        Run, SimpleNamespace(spec=run_of(constraints=spec).spec, dense=SimpleNamespace(anatomy=anatomy))
    )
    assert layers_left(run, form(0.9, whole), aim) == pytest.approx(left)
    saved = {"task": 0.25, "task-and-common": 0.2}
    tried = {name: form(metrics[name], round(whole - saved[name] * layers)) for name in saved}
    assert best_table(run, form(0.9, whole), form(0.9, dense), tried) == chosen
