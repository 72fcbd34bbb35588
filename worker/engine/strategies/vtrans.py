"""Strategies that learn what to remove: masks with the variational information bottleneck.

VTrans (Dutta, Gupta and Agarwal, arXiv 2406.05276), in its three forms, which differ in what is trained
and on how much of the data. How masks are trained is in `worker.engine.learned`; recovery then trains the
sliced model as after any other strategy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from models.spec import Candidate, Recipe
from worker.engine.anatomy.shape import Shape
from worker.engine.learned.selection import Chosen, Grain, chosen
from worker.engine.strategies.base import (
    Judgement,
    Lesson,
    SearchProblem,
    SearchStep,
    Strategy,
    Teaching,
    measured,
)
from worker.engine.strategies.narrowing import as_steps


class VTrans(Strategy):
    """Masks and weights are trained together, on all training rows.

    Candidates: the model that the search begins with, what the masks would leave at a quarter, half and three
    quarters of the steps by what is asked until then, and at the end the structure whose exact costs come
    within a hundredth of the tightest bound.
    """

    name = "vtrans"
    trains_weights: ClassVar[bool] = True
    data_fraction: ClassVar[float] = 1.0

    def search(self, problem: SearchProblem, state: dict[str, Any] | None) -> Iterator[SearchStep]:
        """Where bounds hold already nothing is trained. Raises ValueError without a problem's teaching."""
        if problem.teaching is None:
            raise ValueError("a strategy that trains masks needs a problem that can teach it")
        search = _Search(problem, problem.teaching, state)
        if state is None:
            yield search.begin()
        if not search.state["learnt"] and problem.teaching.room(search.start) < 0.0:
            for lesson in problem.teaching.lessons(weights=self.trains_weights, fraction=self.data_fraction):
                if lesson.progress >= 1.0:
                    yield search.end(lesson)
                elif lesson.progress > search.state["seen"]:
                    yield search.look(lesson)


class FastVTrans(VTrans):
    """As `VTrans`, on 3 % of the training rows unless the job says otherwise."""

    name = "fast-vtrans"
    data_fraction = 0.03


class FasterVTrans(FastVTrans):
    """As `FastVTrans`, but weights are frozen: only the masks are trained."""

    name = "faster-vtrans"
    trains_weights = False


class _Search:
    """`seen`: the part of the training that candidates tell of already."""

    def __init__(self, problem: SearchProblem, teaching: Teaching, state: dict[str, Any] | None) -> None:
        self.problem, self.teaching = problem, teaching
        self.full = problem.anatomy.full_shape()
        self.start = self.full.applied(problem.start)
        self.grain = Grain.of(problem.anatomy, problem.group_sizes, problem.allowed)
        begun = {"number": 0, "recipe": _json(problem.start), "seen": 0.0, "learnt": False}
        self.state = dict(begun if state is None else state)

    def begin(self) -> SearchStep:
        reason = "where the training of masks begins"
        return self._step(self.problem.start, self.problem.judge(self.start), reason)

    def look(self, lesson: Lesson) -> SearchStep:
        """What the masks leave on the way."""
        taken = self._chosen(lesson, lesson.asked)
        self.state["seen"] = lesson.progress
        reason = f"masks after {lesson.progress:.0%} of the steps, at {lesson.asked:.0%} of what is asked"
        return self._step(self._recipe(lesson, taken), lesson.judge(taken.shape), reason, final=False)

    def end(self, lesson: Lesson) -> SearchStep:
        """The structure, with its weights handed on."""
        taken = self._chosen(lesson, 1.0)
        recipe, judgement = self._recipe(lesson, taken), lesson.judge(taken.shape)
        lesson.keep(taken.shape)
        self.state |= {"recipe": _json(recipe), "learnt": True, "seen": 1.0}
        if taken.room < 0.0:
            reason = "everything removed that the job allows; the tightest bound is still out of reach"
        else:
            reason = f"learned masks; {taken.room:.2%} of the tightest bound are left"
        return self._step(recipe, judgement, reason)

    def _chosen(self, lesson: Lesson, asked: float) -> Chosen:
        def room(shape: Shape) -> float:
            return self.teaching.room(shape, asked)

        return chosen(self.problem.anatomy, self.start, lesson.ranking, self.grain, room)

    def _recipe(self, lesson: Lesson, taken: Chosen) -> Recipe:
        recipe = self.problem.start.then(lesson.step)
        for elements in taken.slices:
            recipe = recipe.then(*as_steps(elements))
        return recipe

    def _step(self, recipe: Recipe, judgement: Judgement, reason: str, *, final: bool = True) -> SearchStep:
        shape = self.full.applied(recipe)
        candidate = Candidate(
            number=self.state["number"],
            stage="search",
            recipe=recipe,
            measurements=measured(self.problem, shape, judgement),
            accepted=final and self.teaching.room(shape) >= 0.0,
            reason=reason,
        )
        self.state["number"] += 1
        return SearchStep(candidate, dict(self.state))


def _json(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json")
