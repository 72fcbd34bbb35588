"""The narrowing that dynamic programming took over from: the cheapest element at a time, kept to compare."""

from __future__ import annotations

from collections.abc import Iterator

from models.spec import Recipe
from worker.engine.strategies.base import Judgement, SearchProblem
from worker.engine.strategies.narrowing import ROUNDS, as_steps, one_by_one


def narrow_greedily(problem: SearchProblem, recipe: Recipe) -> Iterator[tuple[Recipe, Judgement]]:
    """As `narrowing.narrow`, but no round looks at more than the next element."""
    full = problem.anatomy.full_shape()
    start = problem.goal.missing(problem.costs(full.applied(recipe)))
    enough = {resource: part / ROUNDS for resource, part in start.items()}
    while not problem.goal.met(problem.costs(shape := full.applied(recipe))):
        removed = one_by_one(problem, shape, problem.significance(shape), enough)
        if not removed:
            return
        recipe = recipe.then(*as_steps(removed))
        yield recipe, problem.judge(full.applied(recipe))
