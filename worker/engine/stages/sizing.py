"""Sizing: time the searched structure as a file before it is trained, and correct it until it fits.

What a file takes depends on its shape and not on its weights. So an error of the latency table, or a
machine that has changed since the table was measured, is found here for the price of an export: too
slow, and more is removed; too fast, and what was removed last is kept after all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from models.spec import Recipe
from worker.engine.anatomy.slicing import sliced
from worker.engine.delivery import target_file, write_target_file
from worker.engine.measure.probing import ModelFile
from worker.engine.run import Run
from worker.engine.stages.baseline import dense_files, quantization
from worker.engine.stages.problem import cost_model, dense_reference, search_problem
from worker.engine.stages.timing import reference_times
from worker.engine.stages.timing import timed as timed_file
from worker.engine.stages.widening import widened
from worker.engine.strategies.goal import MARGIN, Goal
from worker.engine.strategies.narrowing import narrowed

TURNS = 3
TOLERANCE = 0.05  # of the milliseconds aimed at, by which a file may be faster
SLOWER = 0.06  # of them, by which it may be slower: less than the margin that the aim keeps from the bound
SHARE_OF_TIME = 0.1  # of what is left of the budget: with that gone, what was corrected is not timed again
TIMING_SHARE = 0.6  # of the time that a comparison usually takes


@dataclass(frozen=True)
class Sized:
    """`timing_seconds`: the longest that exporting and timing a file took; 0 where none was timed."""

    recipe: Recipe
    timing_seconds: float = 0.0


def sized(run: Run, recipe: Recipe, folder: Path, tell: Callable[[str, int, int | None], None]) -> Sized:
    """The recipe, with more or fewer removals, whose file takes the milliseconds that the bounds leave.

    The same recipe where no bound on speed was given, where the published algorithm chose what to remove
    for accuracy, and where nothing can be changed.
    """
    goal = Goal.of(run.spec.constraints, dense_reference(run), margin=MARGIN)
    aim = goal.ms
    if aim is None or run.spec.focus == "accuracy":
        return Sized(recipe)
    timing = _Sizing(run, goal, aim, folder, tell)
    return Sized(brought_to(aim, recipe, timing.timed, timing.corrected), timing.longest)


class _Sizing:
    """Times files and corrects recipes, as long as sizing has time.

    A structure that was narrowed is timed even without time left. What seemed too slow may have been
    disturbed, or the table wrong, and more may have gone than was asked; that would cost accuracy, which
    training gives back slowly if at all, where another timing costs seconds.
    """

    def __init__(
        self, run: Run, goal: Goal, aim: float, folder: Path, tell: Callable[[str, int, int | None], None]
    ) -> None:
        self._run, self._goal, self._aim, self._tell = run, goal, aim, tell
        self._time_file = _timer(run, folder)
        self._until = run.stopwatch.used + SHARE_OF_TIME * run.stopwatch.left
        self._unverified = True
        self.longest = 0.0

    def timed(self, tried: Recipe, turn: int) -> float | None:
        """Milliseconds of a file; None without time for it."""
        began = self._run.stopwatch.used
        if turn and not self._unverified and began > self._until:
            return None
        self._unverified = False
        self._tell("timing the structure before it is trained", turn, TURNS)
        ms = self._time_file(tried)
        self.longest = max(self.longest, self._run.stopwatch.used - began)
        return ms

    def corrected(self, tried: Recipe, ms: float) -> Recipe:
        """More or less of what was timed."""
        bounds = replace(self._goal, ms=corrected_ms(self._run, tried, ms, self._aim))
        if ms <= self._aim:
            return widened(self._run, tried, bounds)
        self._unverified = True
        return _narrowed(self._run, tried, bounds, self._tell)


def corrected_ms(run: Run, recipe: Recipe, measured: float, aim: float) -> float:
    """Milliseconds to be predicted, so that about `aim` are measured, by what a file of `recipe` took."""
    predicted = cost_model(run)(run.shape(recipe)).ms
    if measured <= aim:
        return granted_ms(predicted, measured, aim, reference_times(run).whole)
    return aim * predicted / measured  # the table is wrong by this factor here: ask it for as much less


def untrained_file(run: Run, recipe: Recipe, folder: Path) -> ModelFile:
    """The structure of a recipe in the delivered precision, with the weights that the search begins with."""
    student = sliced(run.anatomy.model, run.shape(recipe))
    write_target_file(run, student, recipe.then(*quantization(run).steps), folder)
    return target_file(run, folder)


def granted_ms(predicted: float, measured: float, aim: float, whole: float) -> float:
    """Milliseconds that may be predicted of a wider structure, so that about `aim` of them are measured.

    On the line through the structure that was predicted and measured, and the `whole` model, of which both
    are the same by how predictions are scaled. So what was measured too fast by chance never allows
    a structure that is as slow as the whole model; a factor would.
    """
    if measured >= min(aim, whole):
        return predicted
    return predicted + (whole - predicted) * (aim - measured) / (whole - measured)


def brought_to(
    aim: float,
    recipe: Recipe,
    timed: Callable[[Recipe, int], float | None],
    corrected: Callable[[Recipe, float], Recipe],
) -> Recipe:
    """Time and correct in turns, until a file takes about `aim` milliseconds.

    A file is timed beside the dense model, and what a machine does besides adds to the one or the other. So a
    file that seems too slow is timed once more before more of it is removed, and one that seems too fast
    before more of it is kept; what is nearer to the aim counts. Ends also when nothing is left to correct,
    when there is no time for another timing (None), and after `TURNS` turns: what was corrected last is
    then taken as it is.
    """

    def fits(ms: float) -> bool:
        return aim * (1 - TOLERANCE) <= ms <= aim * (1 + SLOWER)

    for turn in range(TURNS):
        ms = timed(recipe, turn)
        if ms is not None and not fits(ms):
            # Too much removed costs accuracy; too little is found out later. So the latter may lack the time.
            again = timed(recipe, turn if ms > aim else max(turn, 1))
            ms = ms if again is None else min(ms, again, key=lambda each: abs(each - aim))
        if ms is None or fits(ms):
            return recipe
        changed = corrected(recipe, ms)
        if changed == recipe:
            return recipe
        recipe = changed
    return recipe


def _narrowed(run: Run, recipe: Recipe, goal: Goal, tell: Callable[[str, int, int | None], None]) -> Recipe:
    problem = search_problem(run, run.anatomy, goal, tell=tell)
    return narrowed(problem, recipe)


def _timer(run: Run, folder: Path) -> Callable[[Recipe], float]:
    """Milliseconds a call of a recipe's file, as the search counts them."""

    def milliseconds(recipe: Recipe) -> float:
        file = untrained_file(run, recipe, folder)
        return timed_file(run, file, *dense_files(run), share=TIMING_SHARE).ms

    return milliseconds
