"""Narrowing: what a round solves for, native shapes, and refining by the loss itself."""

from __future__ import annotations

from itertools import product

import pytest

from models.spec import NATIVE_APPROXIMATIONS, Recipe
from tests.engine.strategies.problems import flat, problem
from worker.engine.anatomy import Shape
from worker.engine.anatomy.slicing import is_native
from worker.engine.strategies.allocation import allocate
from worker.engine.strategies.base import SearchProblem
from worker.engine.strategies.cost_driven import cost_driven
from worker.engine.strategies.goal import Costs, Goal, pushed
from worker.engine.strategies.narrowing import narrow, smallest
from worker.engine.strategies.options import block_options


def narrowed(asked: SearchProblem) -> Shape:
    last = [recipe for recipe, _ in narrow(asked, Recipe())][-1]
    return asked.anatomy.full_shape().applied(last)


@pytest.mark.parametrize("ms", [5.5, 5.0, 4.5])
def test_a_bound_is_met_and_hardly_overshot(ms: float) -> None:
    shape = narrowed(asked := problem(flat, goal=Goal(ms=ms)))
    assert 0.93 * ms <= asked.costs(shape).ms <= ms


def test_one_round_takes_the_least_significant_choice_there_is() -> None:
    asked = problem(flat, allowed=frozenset({"prune_heads"}))
    full = asked.anatomy.full_shape()
    weights = asked.significance(full)
    blocks = block_options(asked, full, weights, ("ms",))
    needed = 0.55  # six heads of a tenth
    every = (
        [block.options[at] for block, at in zip(blocks, chosen, strict=True)]
        for chosen in product(*(range(len(block.options)) for block in blocks))
    )
    enough = [taken for taken in every if sum(option.savings[0] for option in taken) >= needed]
    least = min(sum(option.significance for option in taken) for taken in enough)
    chosen = allocate([block.options for block in blocks], [needed])
    assert chosen is not None
    lost = sum(block.options[at].significance for block, at in zip(blocks, chosen, strict=True))
    assert lost == pytest.approx(least)


def test_native_searches_end_in_shapes_that_a_stock_class_holds() -> None:
    asked = problem(flat, goal=Goal(ms=4.0), allowed=frozenset(NATIVE_APPROXIMATIONS), native=True)
    steps = list(cost_driven(asked, None))
    shapes = [asked.anatomy.full_shape().applied(step.candidate.recipe) for step in steps]
    assert all(is_native(asked.anatomy, shape) for shape in shapes)
    widths = {len(layer.channels) for shape in shapes for layer in shape.layers if layer.present}
    assert widths - {24}
    assert asked.goal.met(asked.costs(shapes[-1]))


def test_native_narrowing_ends_with_one_group_a_layer() -> None:
    asked = problem(flat, goal=Goal(ms=0.1), allowed=frozenset(NATIVE_APPROXIMATIONS), native=True)
    assert {len(layer.channels) for layer in narrowed(asked).layers} == {2}


def test_the_smallest_shape_is_a_lower_bound_of_all() -> None:
    asked = problem(flat, goal=Goal(ms=0.1))
    full = asked.anatomy.full_shape()
    least = asked.costs(smallest(asked, full))
    assert least.ms <= min(step.candidate.measurements.latency_ms or 0.0 for step in cost_driven(asked, None))
    native = problem(flat, allowed=frozenset(NATIVE_APPROXIMATIONS), native=True)
    assert is_native(native.anatomy, smallest(native, full))


def test_balanced_pushes_time_and_bytes_alike() -> None:
    goal = pushed(Goal(ms=9.0, bytes=90.0), Costs(8.0, 80.0), "balanced", 0.81)
    assert (goal.ms, goal.bytes) == (pytest.approx(7.2), pytest.approx(72.0))
    assert pushed(Goal(bytes=90.0), Costs(8.0, 80.0), "speed", 0.5) == Goal(ms=4.0, bytes=90.0)
