"""Hidden groups are narrowed like other elements, and groups are as large as the job asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.spec import GroupSizes, PruneHidden, PruneWeightGroups, Recipe
from tests.engine.strategies.problems import flat, problem
from worker.engine.anatomy import Shape
from worker.engine.significance.fisher import FisherInformation
from worker.engine.strategies.base import SearchProblem
from worker.engine.strategies.goal import Goal
from worker.engine.strategies.narrowing import narrow


def narrowed(given: SearchProblem, part: float) -> tuple[Recipe, Shape]:
    """Until the file has that part of its bytes."""
    full = given.anatomy.full_shape()
    goal = Goal(bytes=part * given.costs(full).bytes)
    recipe, _ = list(narrow(replace(given, goal=goal), Recipe()))[-1]
    shape = full.applied(recipe)
    assert given.costs(shape).bytes <= part * given.costs(full).bytes
    return recipe, shape


def test_the_least_significant_dimensions_go_in_groups() -> None:
    given = problem(flat, allowed=frozenset({"prune_hidden"}), group_sizes=GroupSizes(hidden=4))
    scores = np.arange(16.0)[::-1]

    def fisher(shape: Shape) -> FisherInformation:
        known = given.significance(shape)
        return replace(known, hidden=np.tile(scores, (4, 1)))

    recipe, shape = narrowed(replace(given, significance=fisher), 0.7)
    assert {type(step) for step in recipe.steps} == {PruneHidden}
    assert len(shape.hidden_gone) % 4 == 0
    assert shape.hidden_gone == tuple(range(16 - len(shape.hidden_gone), 16))
    assert given.anatomy.shape(recipe) == shape.normalised()


def test_one_group_of_dimensions_always_stays() -> None:
    given = problem(flat, allowed=frozenset({"prune_hidden"}), group_sizes=GroupSizes(hidden=5))
    full = given.anatomy.full_shape()
    goal = Goal(bytes=1.0)
    recipe, _ = list(narrow(replace(given, goal=goal), Recipe()))[-1]
    assert given.anatomy.width(full.applied(recipe)) == 5


def test_channels_go_one_by_one_where_that_is_asked() -> None:
    allowed = frozenset({"prune_weight_groups"})
    given = problem(flat, allowed=allowed, group_sizes=GroupSizes(ffn=1))
    recipe, shape = narrowed(given, 0.9)
    assert {type(step) for step in recipe.steps} == {PruneWeightGroups}
    # A channel of this model is 33 parameters, a byte each: the bound is met to that.
    full = given.anatomy.full_shape()
    assert given.costs(shape).bytes > 0.9 * given.costs(full).bytes - 33
    _, wide = narrowed(replace(given, group_sizes=GroupSizes(ffn=12)), 0.9)
    assert all(len(layer.channels) % 12 == 0 for layer in wide.layers)
