"""Search: the strategy's candidates, one after the other, each kept before the next begins."""

from __future__ import annotations

from typing import Any

from models.spec import Recipe
from worker.engine.run import Run
from worker.engine.stages.problem import MARGIN, dense_reference, search_problem
from worker.engine.stages.trials import Trials
from worker.engine.stages.vocabulary import vocabulary_recipe
from worker.engine.strategies import STRATEGIES
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

    trials = None if run.spec.recovery == "off" else Trials(run).scores
    problem = search_problem(run, run.anatomy, goal, trials=trials, tell=tell)
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


def _candidates_before(run: Run) -> int:
    baseline = run.workspace.result("baseline")
    assert baseline is not None
    return int(baseline["candidates"])
