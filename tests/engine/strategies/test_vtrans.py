"""Strategies that train masks, on lessons that a test makes up: what they try, keep, and go on from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from models.spec import APPROXIMATIONS, LearnMasks
from tests.engine.learned.test_selection import random_ranking
from tests.engine.strategies.problems import flat, problem
from worker.engine.anatomy import Anatomy, Shape
from worker.engine.learned.vib import Ranking
from worker.engine.strategies import STRATEGIES
from worker.engine.strategies.base import Judgement, SearchProblem, SearchStep

PART = 0.6  # of the parameters may stay


@dataclass
class Lesson:
    anatomy: Anatomy
    progress: float
    kept: list[Shape]

    @property
    def asked(self) -> float:
        return min(1.0, self.progress / 0.5)

    @property
    def ranking(self) -> Ranking:
        return random_ranking(self.anatomy, 0)

    @property
    def step(self) -> LearnMasks:
        return LearnMasks(weights=True, rows=10, steps=round(100 * self.progress), seed=0)

    def judge(self, shape: Shape) -> Judgement:
        return Judgement(1.0, 0.5, np.ones(10))

    def keep(self, shape: Shape) -> None:
        self.kept.append(shape)


class Teaching:
    """Notes how it was asked."""

    def __init__(self, anatomy: Anatomy, part: float = PART, after: float = 0.0) -> None:
        self.anatomy, self.part, self.after = anatomy, part, after
        self.asked: list[tuple[bool, float]] = []
        self.kept: list[Shape] = []

    def room(self, shape: Shape, asked: float = 1.0) -> float:
        whole = self.anatomy.parameters(self.anatomy.full_shape())
        return 1.0 - self.anatomy.parameters(shape) / (whole * (1.0 - asked * (1.0 - self.part)))

    def lessons(self, *, weights: bool, fraction: float) -> Iterator[Lesson]:
        self.asked.append((weights, fraction))
        for progress in (0.25, 0.5, 0.75, 1.0):
            if progress > self.after:
                yield Lesson(self.anatomy, progress, self.kept)


def taught(part: float = PART, after: float = 0.0) -> tuple[SearchProblem, Teaching]:
    made = problem(flat, allowed=frozenset(APPROXIMATIONS))
    teaching = Teaching(made.anatomy, part, after)
    return replace(made, teaching=teaching), teaching


def searched(name: str, part: float = PART) -> tuple[list[SearchStep], SearchProblem, Teaching]:
    made, teaching = taught(part)
    return list(STRATEGIES[name].search(made, None)), made, teaching


@pytest.mark.parametrize(
    ("name", "weights", "fraction"),
    [("vtrans", True, 1.0), ("fast-vtrans", True, 0.03), ("faster-vtrans", False, 0.03)],
)
def test_strategies_differ_in_what_is_trained_on_how_much(name: str, weights: bool, fraction: float) -> None:
    steps, made, teaching = searched(name)
    assert teaching.asked == [(weights, fraction)]
    assert [step.candidate.number for step in steps] == list(range(5))
    assert [step.candidate.accepted for step in steps] == [False] * 4 + [True]
    sizes = [step.candidate.measurements.parameters for step in steps]
    whole = made.anatomy.parameters(made.anatomy.full_shape())
    # As the target rises: 20 % of the parameters at a quarter of the steps, and then all 40 %.
    assert sizes == pytest.approx([whole, 0.8 * whole, 0.6 * whole, 0.6 * whole, 0.6 * whole], rel=0.01)


def test_the_last_structure_is_kept_and_its_recipe_says_what_was_trained() -> None:
    steps, made, teaching = searched("vtrans")
    last = steps[-1].candidate.recipe
    assert last.steps[0] == LearnMasks(weights=True, rows=10, steps=100, seed=0)
    shape = made.anatomy.full_shape().applied(last).normalised()
    assert [kept.normalised() for kept in teaching.kept] == [shape]
    assert steps[-1].state["recipe"] == last.model_dump(mode="json")


def test_what_was_told_is_not_told_again() -> None:
    whole = searched("vtrans")[0]
    for done in range(1, len(whole)):
        state = whole[done - 1].state
        made, _ = taught(after=0.0)
        left = list(STRATEGIES["vtrans"].search(made, state))
        assert [step.candidate for step in left] == [step.candidate for step in whole[done:]]
    made, teaching = taught()
    assert not list(STRATEGIES["vtrans"].search(made, whole[-1].state))
    assert not teaching.asked


def test_nothing_is_trained_where_bounds_hold() -> None:
    steps, _, teaching = searched("vtrans", part=1.1)
    assert len(steps) == 1
    assert not steps[0].candidate.recipe.steps
    assert steps[0].candidate.accepted
    assert not teaching.asked


def test_what_is_out_of_reach_is_told() -> None:
    last = searched("vtrans", part=0.001)[0][-1].candidate
    assert not last.accepted
    assert "out of reach" in last.reason


def test_a_problem_that_cannot_teach_is_refused() -> None:
    with pytest.raises(ValueError, match="teach"):
        list(STRATEGIES["vtrans"].search(problem(flat), None))
