from __future__ import annotations

import pytest

from models.spec import PruneHeads, PruneLayers, Recipe
from worker.engine.stages.gradual import MOST_STEPS, Plan, dropped_layers, planned
from worker.engine.strategies.goal import Costs, Goal

WHOLE, SMALL = Costs(8.0, 800.0), Costs(1.0, 100.0)
SPEED = Goal(ms=1.0)


def test_each_step_removes_the_same_part_and_the_last_is_the_structure_itself() -> None:
    steps = planned("gradual", SPEED, WHOLE, SMALL, passing=10.0, seconds=12.5)
    assert steps.seconds == 6.25
    assert [goal.ms for goal in steps.goals] == pytest.approx([4.0, 2.0, 1.0])
    assert all(goal.bytes is None for goal in steps.goals)
    both = planned("gradual", Goal(1.0, 100.0), WHOLE, SMALL, passing=10.0, seconds=9.0)
    assert [goal.bytes for goal in both.goals] == pytest.approx([800 / 8**0.5, 100.0])


def test_steps_are_as_many_as_the_time_has_passes_for() -> None:
    assert planned("gradual", SPEED, WHOLE, SMALL, passing=10.0, seconds=4.0).goals == ()
    many = planned("gradual", SPEED, WHOLE, SMALL, passing=1.0, seconds=1000.0)
    assert len(many.goals) == MOST_STEPS + 1


def test_auto_is_gradual_where_much_has_to_go_and_all_steps_have_their_time() -> None:
    assert planned("auto", SPEED, WHOLE, SMALL, passing=10.0, seconds=12.5).goals == ()
    assert planned("auto", SPEED, WHOLE, SMALL, passing=1.0, seconds=9.0).goals
    assert planned("auto", SPEED, WHOLE, Costs(4.0, 400.0), passing=1.0, seconds=9.0).goals == ()
    assert planned("gradual", SPEED, WHOLE, Costs(4.0, 400.0), passing=1.0, seconds=9.0).goals
    assert planned("one_shot", SPEED, WHOLE, SMALL, passing=1.0, seconds=9.0).goals == ()


def test_nothing_is_planned_where_nothing_goes_or_nothing_is_bounded() -> None:
    assert planned("gradual", SPEED, WHOLE, WHOLE, passing=1.0, seconds=9.0).goals == ()
    assert planned("gradual", Goal(), WHOLE, SMALL, passing=1.0, seconds=9.0).goals == ()


def test_a_plan_survives_its_json() -> None:
    plan = planned("gradual", SPEED, WHOLE, SMALL, passing=10.0, seconds=12.5)
    assert Plan.from_json(plan.to_json()) == plan


def test_layers_go_one_by_one() -> None:
    recipe = Recipe(
        steps=(PruneLayers(layers=(3, 1)), PruneHeads(layer=0, heads=(0,)), PruneLayers(layers=(2,)))
    )
    assert [step.layers for step in dropped_layers(recipe)] == [(3,), (1,), (2,)]
