"""`python -m bench.allocation WORKDIR`: dynamic programming beside the greedy narrowing it took over from.

WORKDIR holds a run of `axforge optimize` that is past *analyse*. From the same depths, all
narrow to the same predicted milliseconds; reported is the loss on the whole selection split, untrained and
after the search's short trial. Written to bench/results/allocation.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.greedy import narrow_greedily
from models.spec import JobSpec, PruneLayers, Recipe
from worker.engine.anatomy.slicing import sliced
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.fitting import judged
from worker.engine.stages.problem import search_problem
from worker.engine.stages.trials import Trials
from worker.engine.strategies.base import SearchProblem
from worker.engine.strategies.goal import Goal
from worker.engine.strategies.narrowing import narrow

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "allocation.json"
CASES = ((0, 1.5), (0, 2.5), (2, 2.5), (2, 4.0))
"""Layers dropped first, and how many times faster than the whole model in the delivered precision."""


def main() -> None:
    """Compare, and write what came out after every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("spec", type=Path, help="as JSON: the one that the run was started with")
    parser.add_argument("--trials", action="store_true", help="also train each result as the search does")
    parser.add_argument("--cases", type=int, nargs="*", help="by number; default: all")
    given = parser.parse_args()
    run = Run(JobSpec.model_validate_json(given.spec.read_text()), given.workdir, SilentReporter())
    rows: list[dict[str, Any]] = []
    for dropped, faster in CASES if given.cases is None else [CASES[number] for number in given.cases]:
        for row in _case(run, dropped, faster, trials=given.trials):
            rows.append(row)
            print(row, flush=True)
            RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def _case(run: Run, dropped: int, faster: float, *, trials: bool) -> Iterator[dict[str, Any]]:
    whole = search_problem(run, run.anatomy, Goal(), tell=lambda *_: None)
    full = run.anatomy.full_shape()
    goal = Goal(ms=whole.costs(full).ms / faster)
    problem = search_problem(run, run.anatomy, goal, tell=lambda *_: None)
    # Every second layer from the second on: which layers go is not what is compared here.
    layers = tuple(range(1, 2 * dropped, 2))
    begun = Recipe(steps=(PruneLayers(layers=layers),) if layers else ())
    for name, method in (("greedy", narrow_greedily), ("dynamic programming", narrow)):
        began = time.perf_counter()
        recipe = [recipe for recipe, _ in method(problem, begun)][-1]
        row = _row(run, problem, name, recipe, time.perf_counter() - began)
        yield {"dropped": dropped, "faster": faster, **row, **_trained(run, recipe, trials)}


def _row(run: Run, problem: SearchProblem, name: str, recipe: Recipe, seconds: float) -> dict[str, Any]:
    shape = run.anatomy.full_shape().applied(recipe)
    untrained = judged(run, sliced(run.anatomy.model, run.shape(recipe)))
    return {
        "method": name,
        "seconds": round(seconds, 2),
        "predicted_ms": round(problem.costs(shape).ms, 4),
        "allowed_ms": round(problem.goal.ms or 0.0, 4),
        "compared_loss": round(problem.judge(shape).loss, 5),
        "untrained_loss": round(untrained.loss, 5),
        "untrained_metric": round(untrained.metric, 5),
        "heads": [len(layer.heads) for layer in shape.layers],
        "channels": [len(layer.channels) for layer in shape.layers],
    }


def _trained(run: Run, recipe: Recipe, wanted: bool) -> dict[str, float]:
    if not wanted:
        return {}
    score = Trials(run).scores([recipe])[0]
    return {"trained_loss": round(score.loss, 5), "trained_metric": round(score.metric, 5)}


if __name__ == "__main__":
    main()
