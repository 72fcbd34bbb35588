"""Speed and size focus: bounds are met, with what matters least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from transformers import BertConfig, BertForSequenceClassification

from models.spec import Recipe
from tests.engine.strategies.problems import BASE, flat, problem
from worker.engine.anatomy import Shape
from worker.engine.strategies.base import Score, SearchProblem, SearchStep
from worker.engine.strategies.cost_driven import cost_driven
from worker.engine.strategies.goal import Costs, Goal
from worker.engine.strategies.narrowing import narrow


def final_shape(asked: SearchProblem, steps: list[SearchStep]) -> Shape:
    recipe = Recipe.model_validate(steps[-1].state["recipe"])
    return asked.anatomy.full_shape().applied(recipe)


@pytest.mark.parametrize("goal", [Goal(ms=3.0), Goal(bytes=8000.0), Goal(ms=5.0, bytes=9000.0)])
def test_the_bounds_are_met(goal: Goal) -> None:
    asked = problem(flat, goal=goal)
    steps = list(cost_driven(asked, None))
    assert goal.met(asked.costs(final_shape(asked, steps)))
    assert steps[-1].candidate.accepted


def test_the_layer_that_matters_least_goes_first() -> None:
    worth = [0.3, 0.1, 0.2]

    def losses(shape: Shape) -> np.ndarray:
        return BASE + sum(w for w, layer in zip(worth, shape.layers, strict=True) if not layer.present)

    asked = problem(losses, goal=Goal(ms=4.5), allowed=frozenset({"prune_layers"}))
    shape = final_shape(asked, list(cost_driven(asked, None)))
    assert [layer.present for layer in shape.layers] == [True, False, True]


def test_what_matters_is_how_far_the_answers_move_not_the_loss() -> None:
    """A model that is too sure of itself has the lower loss without the layer that its answers hang on."""

    def losses(shape: Shape) -> np.ndarray:
        return BASE - 0.3 * (not shape.layers[2].present)

    def divergence(shape: Shape) -> float:
        return sum(0.3 * (number + 1) for number, layer in enumerate(shape.layers) if not layer.present)

    allowed = frozenset({"prune_layers"})
    asked = problem(losses, goal=Goal(ms=4.5), allowed=allowed, divergence=divergence)
    steps = list(cost_driven(asked, None))
    assert [layer.present for layer in final_shape(asked, steps).layers] == [False, True, True]
    assert "layer.0 matters least: without it answers diverge" in steps[1].candidate.reason


def test_without_bounds_nothing_is_removed() -> None:
    asked = problem(flat)
    assert final_shape(asked, list(cost_driven(asked, None))) == asked.anatomy.full_shape()


@pytest.mark.parametrize("forbidden", ["prune_layers", "prune_blocks", "prune_heads", "prune_weight_groups"])
def test_a_forbidden_approximation_is_never_used(forbidden: str) -> None:
    allowed = {"prune_layers", "prune_blocks", "prune_heads", "prune_weight_groups"} - {forbidden}
    asked = problem(flat, goal=Goal(ms=3.5), allowed=frozenset(allowed))
    used = {step.approximation for each in cost_driven(asked, None) for step in each.candidate.recipe.steps}
    assert used
    assert forbidden not in used


@pytest.mark.parametrize("together", [False, True])
def test_the_arm_with_the_best_trial_wins(together: bool) -> None:
    given: list[int] = []

    def trials(recipes: Sequence[Recipe]) -> list[Score]:
        given.append(len(recipes))
        dropped = [sum(step.approximation == "prune_layers" for step in one.steps) for one in recipes]
        return [Score(1.0, metric=1.0 - layers) for layers in dropped]  # the more layers the better

    asked = problem(flat, goal=Goal(ms=3.4), trials=trials, trials_together=together)
    steps = list(cost_driven(asked, None))
    arms = steps[-1].state["arms"]
    assert len(arms) > 1
    assert given == ([len(arms)] if together else [1] * len(arms))
    fewest = min(arms, key=lambda arm: arm["dropped"])
    assert steps[-1].state["recipe"] == fewest["recipe"]
    otherwise = list(cost_driven(replace(asked, trials_together=not together), None))
    assert [step.candidate for step in steps] == [step.candidate for step in otherwise]


def width_alone(shape: Shape) -> float:
    """A layer takes nothing but what its heads and channels take."""
    return sum(0.1 * len(each.heads) + 0.01 * len(each.channels) for each in shape.layers if each.present)


@pytest.mark.parametrize(
    ("best", "arms"),
    [
        (1, [4, 3, 2, 1, 0]),
        (2, [4, 3, 2, 1]),
        (4, [4, 3, 2]),
    ],
)
def test_shallower_arms_are_tried_as_long_as_the_shallowest_wins(best: int, arms: list[int]) -> None:
    def trials(recipes: Sequence[Recipe]) -> list[Score]:
        dropped = [sum(step.approximation == "prune_layers" for step in one.steps) for one in recipes]
        return [Score(1.0, metric=-abs(layers - best)) for layers in dropped]

    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=6, num_attention_heads=4, intermediate_size=24
    )
    asked = problem(flat, model=BertForSequenceClassification(config), goal=Goal(ms=1.4), trials=trials)
    asked = replace(asked, cheap_trials=True, costs=replace(asked.costs, milliseconds=width_alone))
    steps = list(cost_driven(asked, None))
    assert [arm["dropped"] for arm in steps[-1].state["arms"]] == arms
    trained = list(cost_driven(replace(asked, cheap_trials=False), None))
    assert [arm["dropped"] for arm in trained[-1].state["arms"]] == arms[:3]
    winner = next(arm for arm in steps[-1].state["arms"] if arm["dropped"] == best)
    assert steps[-1].state["recipe"] == winner["recipe"]
    for stop in (len(steps) - 2, len(steps) - 4):  # where the last arms are narrowed or tried
        rest = list(cost_driven(asked, steps[stop].state))
        assert [step.candidate for step in rest] == [step.candidate for step in steps[stop + 1 :]]


def test_an_arm_without_a_rival_is_not_trained_and_not_said_to_be() -> None:
    def trials(recipes: Sequence[Recipe]) -> list[Score]:
        raise AssertionError("there is nothing to compare it with")

    steps = list(cost_driven(problem(flat, goal=Goal(ms=1000.0), trials=trials), None))
    assert len(steps[-1].state["arms"]) == 1
    assert "judged untrained" in steps[-1].candidate.reason


def test_resuming_from_any_state_gives_the_same_candidates() -> None:
    asked = problem(flat, goal=Goal(ms=3.4))
    whole = list(cost_driven(asked, None))
    for stop in range(len(whole)):
        rest = list(cost_driven(asked, whole[stop].state))
        assert [step.candidate for step in rest] == [step.candidate for step in whole[stop + 1 :]]


def test_a_search_of_few_candidates_is_the_begin_of_a_longer_one() -> None:
    asked = problem(flat, goal=Goal(ms=3.4))
    whole = list(cost_driven(asked, None))
    for most in range(1, len(whole) + 1):
        steps = list(cost_driven(replace(asked, max_candidates=most), None))
        assert [step.candidate for step in steps] == [step.candidate for step in whole[:most]]


def test_a_search_cut_short_ends_with_the_nearest_to_the_bounds() -> None:
    asked = problem(flat, goal=Goal(ms=3.4))
    whole = list(cost_driven(asked, None))
    first_trial = next(n for n, step in enumerate(whole) if "judged untrained" in step.candidate.reason)
    for most in range(1, first_trial + 1):
        steps = list(cost_driven(replace(asked, max_candidates=most), None))
        ms = [asked.costs(asked.anatomy.full_shape().applied(step.candidate.recipe)).ms for step in steps]
        # Past the bound nothing is gained: of those that hold it the first arm is taken, which cuts deepest.
        assert asked.costs(final_shape(asked, steps)).ms <= max(min(ms), 3.4)


def test_of_several_arms_only_as_many_are_tried_as_candidates_are_left() -> None:
    given: list[int] = []

    def trials(recipes: Sequence[Recipe]) -> list[Score]:
        given.append(len(recipes))
        return [Score(1.0, metric=float(number)) for number, _ in enumerate(recipes)]

    asked = problem(flat, goal=Goal(ms=3.4), trials=trials, trials_together=True)
    whole = list(cost_driven(asked, None))
    assert given == [len(whole[-1].state["arms"])]
    assert given[0] > 1
    given.clear()
    cut = list(cost_driven(replace(asked, max_candidates=len(whole) - 1), None))
    assert given == [len(whole[-1].state["arms"]) - 1]
    assert len(cut) == len(whole) - 1


def test_narrowing_ends_when_nothing_is_left_to_save() -> None:
    asked = problem(flat, goal=Goal(ms=0.1), allowed=frozenset({"prune_heads"}))
    recipes = [recipe for recipe, _ in narrow(asked, Recipe())]
    shape = asked.anatomy.full_shape().applied(recipes[-1])
    assert all(len(layer.heads) == 1 for layer in shape.layers)


def test_progress_counts_only_what_is_missing() -> None:
    goal = Goal(ms=5.0)
    assert goal.progress(Costs(10.0, 100.0), Costs(8.0, 1.0)) == pytest.approx(0.4)
    assert goal.progress(Costs(10.0, 100.0), Costs(1.0, 1.0)) == 1.0
    assert goal.progress(Costs(4.0, 100.0), Costs(1.0, 1.0)) == 0.0
