"""Search: the strategy's candidates, one after the other, each kept before the next begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.spec import Recipe
from worker.engine.anatomy.slicing import sliced
from worker.engine.run import Run
from worker.engine.stages.fitting import learning_rate, recovered, trial_options
from worker.engine.stages.problem import MARGIN, dense_reference, search_problem
from worker.engine.stages.vocabulary import vocabulary_recipe
from worker.engine.strategies import STRATEGIES
from worker.engine.strategies.base import Judgement
from worker.engine.strategies.goal import Goal
from worker.engine.workspace import read_json, write_json

DOUBT = 0.2  # predicted costs past a bound by more than this part are taken as proof


def search(run: Run) -> dict[str, Any]:
    """Drive the strategy from where a killed run left it; answers the recipe that it ends with.

    `proved_infeasible`: with everything removed that the job allows, bounds are still far off.
    """
    file = run.workspace.folder("search") / "state.json"
    state = (read_json(file) or {"state": None})["state"]
    first, before = _candidates_before(run), vocabulary_recipe(run)
    goal = Goal.of(run.spec.constraints, dense_reference(run), margin=MARGIN)

    def tell(message: str, step: int, total: int | None) -> None:
        run.progress("search", step, total, message)

    problem = search_problem(
        run, run.anatomy, goal, trial=None if run.spec.recovery == "off" else trial_of(run), tell=tell
    )
    for step in STRATEGIES[run.spec.strategy].search(problem, state):
        state = step.state
        write_json(file, {"state": state})
        run.stopwatch.save()
        candidate = step.candidate.model_copy(
            update={
                "number": first + step.candidate.number,
                "recipe": before.then(*step.candidate.recipe.steps),
            }
        )
        run.reporter.candidate(candidate)
        tell(f"candidate {candidate.number}: {candidate.reason}", state["number"], None)
    costs = problem.costs(run.shape(Recipe.model_validate(state["recipe"])))
    reachable = Goal.of(run.spec.constraints, dense_reference(run), margin=-DOUBT).met(costs)
    return {
        "recipe": state["recipe"],
        "candidates": first + state["number"],
        "proved_infeasible": not reachable,
    }


def trial_of(run: Run) -> Callable[[Recipe], Judgement]:
    """A short distillation of a recipe's model from the dense one, judged on the selection split."""

    def trial(recipe: Recipe) -> Judgement:
        dense = run.anatomy.model
        student = sliced(dense, run.shape(recipe))
        options = trial_options(run, learning_rate(run, student, dense))
        return recovered(run, student, options, stage="search")[0]

    return trial


def _candidates_before(run: Run) -> int:
    baseline = run.workspace.result("baseline")
    assert baseline is not None
    return int(baseline["candidates"])
