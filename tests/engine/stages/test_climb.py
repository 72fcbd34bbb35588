"""Where a climb goes from its last rung."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from models.spec import JobSpec, PruneHeads, Quantize, Recipe, Recover
from tests.engine.stages.test_rungs import rung
from worker.engine.run import Run
from worker.engine.stages import recover
from worker.engine.stages.recover import TIGHT, _Climb
from worker.engine.stages.rungs import Rung
from worker.engine.stages.timing import ReferenceTimes
from worker.engine.strategies.goal import MARGIN, Costs, DenseReference, Goal
from worker.engine.workspace import write_json

NARROW = Recipe(steps=(PruneHeads(layer=0, heads=(0,)), PruneHeads(layer=0, heads=(1,))))
WIDE = Recipe(steps=NARROW.steps[:1])
TRAINED = NARROW.then(Recover(epochs=1, learning_rate=1e-3, seed=0), Quantize())
MISSED = {"accuracy.max_relative_drop": 0.5}


class Asked:
    """What `widened` is asked for, and what it answers."""

    def __init__(self, answer: Recipe) -> None:
        self.answer = answer
        self.goals: list[Goal] = []

    def __call__(self, run: Run, recipe: Recipe, goal: Goal) -> Recipe:
        assert recipe == NARROW  # without what is not structure
        self.goals.append(goal)
        return self.answer


def heads(recipe: Recipe) -> int:
    return sum(isinstance(step, PruneHeads) for step in recipe.steps)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked(WIDE)
    monkeypatch.setattr(recover, "widened", asked)
    # A shape is the number of heads that are gone, each of which costs a tenth.
    monkeypatch.setattr(recover, "cost_model", lambda run: lambda gone: Costs(1.0 - 0.1 * gone, 100.0))
    monkeypatch.setattr(recover, "dense_reference", lambda run: DenseReference(3.0, 400, 1))
    monkeypatch.setattr(recover, "reference_times", lambda run: ReferenceTimes(3.0, whole=1.0))
    return asked


def climb(folder: Path, rungs: list[Rung], left: float = 200.0, **spec: Any) -> _Climb:
    document = {
        "base_model": {"path": "m"},
        "dataset": {"path": "d"},
        "constraints": {"accuracy": {"max_relative_drop": 0.01}, "speed": {"min_speedup": 3.0}},
        **spec,
    }
    run = SimpleNamespace(
        spec=JobSpec.model_validate(document),
        workspace=SimpleNamespace(folder=lambda stage: folder),
        stopwatch=SimpleNamespace(left=left),
        shape=heads,
    )
    stored = {"first": None, "plan": None, "steps": [], "rungs": [each.to_json() for each in rungs]}
    write_json(folder / "climb.json", stored)
    return _Climb(cast(Run, run))


def missed(number: int = 0, recipe: Recipe = TRAINED, **measured: Any) -> Rung:
    return rung(
        number, **({"recipe": recipe, "ms": 0.6, "violations": MISSED, "comfortable": False} | measured)
    )


def test_where_accuracy_is_missed_the_climb_goes_back(tmp_path: Path, asked: Asked) -> None:
    assert climb(tmp_path, [missed()]).next_recipe() == WIDE
    # The file took 0.6 ms where 0.8 were predicted: the bound lies higher, but below the whole model's 1.0.
    (goal,) = asked.goals
    assert goal.ms == pytest.approx(0.8 + 0.2 * (1.0 / (1 + TIGHT) - 0.6) / 0.4)
    assert goal.ms < 1.0
    assert goal.bytes is None


def test_where_accuracy_is_only_near_to_its_bound_the_margin_is_kept(tmp_path: Path, asked: Asked) -> None:
    assert climb(tmp_path, [missed(violations={})]).next_recipe() == WIDE
    assert asked.goals[0].ms == pytest.approx(0.8 + 0.2 * (1.0 / (1 + MARGIN) - 0.6) / 0.4)


def test_with_nothing_to_give_back_the_same_is_trained_once_more(tmp_path: Path, asked: Asked) -> None:
    asked.answer = NARROW
    assert climb(tmp_path, [missed()]).next_recipe() == TRAINED
    assert climb(tmp_path, [missed(), missed(1)]).next_recipe() is None
    assert climb(tmp_path, [missed()], recovery="off").next_recipe() is None


def test_what_was_tried_is_not_tried_again(tmp_path: Path, asked: Asked) -> None:
    wider = missed(0, WIDE)
    assert climb(tmp_path, [wider, missed(1)]).next_recipe() == TRAINED


def test_a_rung_that_went_too_far_ends_the_climb(tmp_path: Path, asked: Asked) -> None:
    assert climb(tmp_path, [rung(0, recipe=WIDE), missed(1)]).next_recipe() is None
    assert asked.goals == []


def test_without_time_for_training_the_climb_is_over(tmp_path: Path, asked: Asked) -> None:
    assert climb(tmp_path, [missed(training_seconds=500.0)], left=140.0).next_recipe() is None
    assert climb(tmp_path, [missed(training_seconds=100.0)], left=140.0).next_recipe() == WIDE


def test_accuracy_focus_leaves_what_the_published_algorithm_chose(tmp_path: Path, asked: Asked) -> None:
    assert climb(tmp_path, [missed()], focus="accuracy").next_recipe() == TRAINED
