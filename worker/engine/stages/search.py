"""Search: the strategy's candidates, one after the other, each kept before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from models.spec import Recipe
from worker.engine.run import Run
from worker.engine.stages.choosing import choose_recovery
from worker.engine.stages.learning import Learning
from worker.engine.stages.problem import dense_reference, search_problem
from worker.engine.stages.reconstruct import reconstruction_scores
from worker.engine.stages.trials import Trials
from worker.engine.stages.vocabulary import vocabulary_recipe
from worker.engine.strategies import STRATEGIES
from worker.engine.strategies.base import Score
from worker.engine.strategies.goal import MARGIN, Goal
from worker.engine.strategies.narrowing import smallest
from worker.engine.workspace import read_json, write_json

DOUBT = 0.2  # predicted costs past a bound by more than this part are taken as proof


def search(run: Run) -> dict[str, Any]:
    """Drive the strategy from where a killed run left it; answers the recipe that it ends with.

    `proved_infeasible`: with everything removed that the job allows, bounds are still far off, as far as
    costs are predicted. `utmost`: the speedup and size reduction that are predicted then.
    """
    file = run.workspace.folder("search") / "state.json"
    state = (read_json(file) or {"state": None})["state"]
    first, before = _candidates_before(run), vocabulary_recipe(run)
    goal = Goal.of(run.spec.constraints, dense_reference(run), margin=MARGIN)

    def tell(message: str, step: int, total: int | None) -> None:
        run.progress("search", step, total, message)

    teaching = Learning(run) if run.learns else None
    problem = search_problem(run, run.anatomy, goal, trials=_trials(run), teaching=teaching, tell=tell)
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
    if teaching is not None:
        teaching.clear()
    recipe = Recipe.model_validate(state["recipe"])
    if run.asked.strategy == "auto":
        choose_recovery(run, recipe)
    # Not what the search has come to: it may have ended early.
    least = problem.costs(smallest(problem, run.anatomy.full_shape().applied(problem.start)))
    reachable = Goal.of(run.spec.constraints, dense_reference(run), margin=-DOUBT).met(least)
    return {
        "recipe": state["recipe"],
        "candidates": first + state["number"],
        "proved_infeasible": not reachable,
        "utmost": {
            "speedup": problem.dense.ms / least.ms,
            "size_reduction": problem.dense.bytes / least.bytes,
        },
    }


def _trials(run: Run) -> Callable[[Sequence[Recipe]], Sequence[Score]] | None:
    """How arms are compared: as recovery will leave them, as far as a moment can tell."""
    match run.asked.recovery:
        case "off":
            return None
        case "reconstruct":
            return partial(reconstruction_scores, run)
        case _:
            return Trials(run).scores


def _candidates_before(run: Run) -> int:
    baseline = run.workspace.result("baseline")
    assert baseline is not None
    return int(baseline["candidates"])
