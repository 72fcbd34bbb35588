"""`python -m bench.confidence WORKDIR SPEC`: how often a bound asked for with confidence 0.95 is kept.

WORKDIR holds a run of `axforge optimize` that is past *analyse*, SPEC its job spec. One narrowing of its
dense model gives candidates of ever larger drop; what the dense model and each of them get right is kept for
every row of the selection split and the holdout together. Nothing is trained. Jobs are then simulated by
splitting these rows anew: a seed draws a selection split and a holdout without a row in common, the furthest
candidate is taken that holds the bound on the selection split, and the bound is judged on the holdout.
Compared are no margin (`point`), the 97.5 % end on the selection split for each candidate (`interval`, as it
was before), and `margin` as `worker.engine.measure.margin` has it. Written to bench/results/confidence.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.spec import Constraints, JobSpec, Recipe
from worker.engine.anatomy import Shape
from worker.engine.measure.intervals import PairedBootstrap, bootstrap_accuracy, relative_drop
from worker.engine.measure.margin import UNSEEN, foreseen, surer
from worker.engine.measure.verdict import Measured, evaluate_constraints
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.problem import search_problem
from worker.engine.strategies.goal import Goal
from worker.engine.strategies.narrowing import narrow
from worker.engine.tasks import Scorer, evaluate

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "confidence.json"
JOBS = 400  # simulated for each case
CASES = ((800, 500), (400, 250), (200, 200))
"""Rows of the selection split and of the holdout."""
BOUNDS = (0.01, 0.02, 0.03)
FASTER = 1.8  # where the narrowing ends: candidates between no drop and a large one
Correct = npt.NDArray[np.bool_]


def main() -> None:
    """Store the marks, then simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("spec", type=Path)
    given = parser.parse_args()
    run = Run(JobSpec.model_validate_json(given.spec.read_text()), given.workdir, SilentReporter())
    dense, candidates = marks(run)
    rows = [
        simulated(dense, candidates, selection, holdout, bound)
        for selection, holdout in CASES
        for bound in BOUNDS
    ]
    drops = [relative_drop(float(dense.mean()), float(each.mean())) for each in candidates]
    document = {"rows_of_the_pool": len(dense), "drops_on_the_pool": drops, "jobs": JOBS, "cases": rows}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


def marks(run: Run) -> tuple[Correct, list[Correct]]:
    """What the dense model and each candidate get right, on selection split and holdout: (rows,) each."""
    whole = search_problem(run, run.anatomy, Goal(), tell=lambda *_: None)
    full = run.anatomy.full_shape()
    goal = Goal(ms=whole.costs(full).ms / FASTER)
    problem = search_problem(run, run.anatomy, goal, tell=lambda *_: None)
    shapes = [full, *(full.applied(recipe) for recipe, _ in narrow(problem, Recipe()))]
    holdout = run.origin.encoded(run.data.holdout())
    scorers = [Scorer(run.task, "accuracy", split) for split in (run.selection, holdout)]
    right = [np.concatenate([_right(run, shape, scorer) for scorer in scorers]) for shape in shapes]
    return right[0], right[1:]


def simulated(
    dense: Correct, candidates: list[Correct], selection: int, holdout: int, bound: float
) -> dict[str, Any]:
    """By way of choosing: jobs that took a candidate, and the share of these that keep the bound."""
    ways: dict[str, Callable[[PairedBootstrap], tuple[Constraints, PairedBootstrap]]] = {
        "point": lambda paired: (_asked(bound, "point"), paired),
        "interval": lambda paired: (_asked(bound, 0.95), paired),
        "margin": lambda paired: (
            surer(_asked(bound, 0.95), len(candidates)),
            foreseen(paired, selection, holdout),
        ),
    }
    taken, kept, drops = (dict.fromkeys(ways, 0.0) for _ in range(3))
    for seed in range(JOBS):
        drawn = np.random.default_rng(seed).permutation(len(dense))[: selection + holdout]
        chosen, judging = drawn[:selection], drawn[selection:]
        for name, way in ways.items():
            unseen = UNSEEN if name == "margin" else 0.0
            seen = [
                bootstrap_accuracy(dense[chosen], each[chosen], seed=seed, unseen=unseen)
                for each in candidates
            ]
            holding = [number for number, paired in enumerate(seen) if _holds(*way(paired))]
            if holding:
                best = candidates[holding[-1]]
                drop = relative_drop(float(dense[judging].mean()), float(best[judging].mean()))
                taken[name] += 1
                kept[name] += drop <= bound
                drops[name] += drop
    return {
        "selection_rows": selection,
        "holdout_rows": holdout,
        "max_relative_drop": bound,
        **{
            name: {
                "took_a_candidate": taken[name] / JOBS,
                "kept_of_these": kept[name] / taken[name] if taken[name] else None,
                "kept_of_all_jobs": 1.0 - (taken[name] - kept[name]) / JOBS,
                "mean_drop_of_these": drops[name] / taken[name] if taken[name] else None,
            }
            for name in ways
        },
    }


def _right(run: Run, shape: Shape, scorer: Scorer) -> Correct:
    with run.anatomy.masked(shape):
        evaluation = evaluate(run.anatomy.model, scorer.split, run.task, device=run.device)
    right = scorer.right(scorer.marks(evaluation.logits))
    assert right is not None
    return right


def _asked(bound: float, confidence: Any) -> Constraints:
    return Constraints.model_validate({"accuracy": {"max_relative_drop": bound, "confidence": confidence}})


def _holds(constraints: Constraints, paired: PairedBootstrap) -> bool:
    measured = Measured(paired.dense, paired.optimized, 1, 1, 1.0, 1.0, 1.0, 1.0, paired)
    return all(result.met for result in evaluate_constraints(constraints, measured))


if __name__ == "__main__":
    main()
