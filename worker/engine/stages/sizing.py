"""Sizing: time the searched structure as a file before it is trained, and correct it until it fits.

What a file takes depends on its shape and not on its weights. So an error of the latency table, or a
machine that has changed since the table was measured, is found here for the price of an export: too
slow, and more is removed; too fast, and what was removed last is kept after all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from models.spec import LowRankEmbeddings, PruneLayers, Recipe
from worker.engine.anatomy.slicing import sliced
from worker.engine.delivery import target_file, write_target_file
from worker.engine.run import Run
from worker.engine.stages.baseline import dense_files, quantization
from worker.engine.stages.problem import MARGIN, cost_model, dense_reference, search_problem
from worker.engine.stages.timing import timed as timed_file
from worker.engine.strategies.goal import Goal
from worker.engine.strategies.narrowing import narrow

TURNS = 3
TOLERANCE = 0.05  # of the milliseconds aimed at, by which a file may be faster
SHARE_OF_TIME = 0.1  # of what is left of the budget: what sizing may take


def sized(run: Run, recipe: Recipe, folder: Path, tell: Callable[[str, int, int | None], None]) -> Recipe:
    """The recipe, with more or fewer removals, whose file takes the milliseconds that the bounds leave.

    The same recipe where no bound on speed was given, where the published algorithm chose what to remove
    for accuracy, and where nothing can be changed.
    """
    goal = Goal.of(run.spec.constraints, dense_reference(run), margin=MARGIN)
    aim = goal.ms
    if aim is None or run.spec.focus == "accuracy":
        return recipe
    costs, until = cost_model(run), run.stopwatch.used + SHARE_OF_TIME * run.stopwatch.left
    time_file = _timer(run, folder)

    def timed(tried: Recipe, turn: int) -> float:
        tell("timing the structure before it is trained", turn, TURNS)
        return time_file(tried)

    def corrected(tried: Recipe, ms: float) -> Recipe | None:
        if run.stopwatch.used > until:
            return None
        # The table is wrong by this factor here: ask it for as much less, or grant as much more.
        bounds = replace(goal, ms=aim * costs(run.shape(tried)).ms / ms)
        return _narrowed(run, tried, bounds, tell) if ms > aim else _widened(run, tried, bounds)

    return brought_to(aim, recipe, timed, corrected)


def brought_to(
    aim: float,
    recipe: Recipe,
    timed: Callable[[Recipe, int], float],
    corrected: Callable[[Recipe, float], Recipe | None],
) -> Recipe:
    """Time and correct in turns, until a file takes `aim` milliseconds or up to 5 % less.

    Ends also when nothing is left to correct, and after `TURNS` turns.
    """
    for turn in range(TURNS):
        ms = timed(recipe, turn)
        if aim * (1 - TOLERANCE) <= ms <= aim:
            return recipe
        changed = corrected(recipe, ms)
        if changed is None or changed == recipe:
            return recipe
        recipe = changed
    return recipe


def shortest_that_fits(recipe: Recipe, fits: Callable[[Recipe], bool]) -> Recipe:
    """The recipe without as many of its last removals as `fits` allows.

    Dropped layers stay dropped, and a table of low rank stays one: it was chosen for its size.
    """
    lasting = PruneLayers | LowRankEmbeddings
    least = max((n for n, step in enumerate(recipe.steps, 1) if isinstance(step, lasting)), default=0)
    prefixes = (Recipe(steps=recipe.steps[:kept]) for kept in range(least, len(recipe.steps)))
    return next(filter(fits, prefixes), recipe)


def _widened(run: Run, recipe: Recipe, goal: Goal) -> Recipe:
    costs = cost_model(run)
    return shortest_that_fits(recipe, lambda shorter: goal.met(costs(run.shape(shorter))))


def _narrowed(run: Run, recipe: Recipe, goal: Goal, tell: Callable[[str, int, int | None], None]) -> Recipe:
    problem = search_problem(run, run.anatomy, goal, tell=tell)
    steps = [narrower for narrower, _ in narrow(problem, recipe)]
    return steps[-1] if steps else recipe


def _timer(run: Run, folder: Path) -> Callable[[Recipe], float]:
    """Milliseconds a call of a recipe's file, as the search counts them."""

    def milliseconds(recipe: Recipe) -> float:
        student = sliced(run.anatomy.model, run.shape(recipe))
        write_target_file(run, student, recipe.then(*quantization(run).steps), folder)
        return timed_file(run, target_file(run, folder), *dense_files(run)).ms

    return milliseconds
