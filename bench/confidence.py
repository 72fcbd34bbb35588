"""`make bench-confidence`: how often a bound asked for with confidence 0.95 is kept on the holdout.

    AXFORGE_BENCH_DATA=FOLDER python -m bench.confidence [--tasks trec mrpc]

For each task MiniLM is fine-tuned once (the checkpoints of `bench/quality.py` are used) and analysed. One
narrowing of it gives structures of ever larger drop, of which as many are candidates as a job recovers, from
no drop to twice the largest bound; what the dense model and each of them get right is kept for every row of
the selection split and the holdout together. Nothing is trained. Jobs are then simulated by
splitting these rows anew: a seed draws a selection split and a holdout without a row in common, the furthest
candidate is taken that holds the bound on the selection split, and the bound is judged on the holdout.
Compared are no margin (`point`), the 97.5 % end on the selection split for each candidate (`interval`), and
`margin` as `worker.engine.measure.margin` has it. Written to bench/results/confidence.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.main import ROOT
from bench.quality import CACHE, Asked, Dense, all_at_once, spec_of
from bench.quality_tasks import QUALITY_TASKS
from bench.record import machine, record
from models.spec import Constraints, JobSpec, Recipe
from worker.engine.anatomy import Shape
from worker.engine.measure.intervals import PairedBootstrap, bootstrap_accuracy, relative_drop
from worker.engine.measure.margin import UNSEEN, foreseen, surer
from worker.engine.measure.verdict import Measured, evaluate_constraints
from worker.engine.pipeline import do_stages
from worker.engine.reporting import SilentReporter, Stage
from worker.engine.run import Run
from worker.engine.stages.problem import search_problem
from worker.engine.stages.rungs import MAX_RUNGS
from worker.engine.strategies.goal import Goal
from worker.engine.strategies.narrowing import narrow
from worker.engine.tasks import Scorer, evaluate

RESULTS = ROOT / "bench" / "results" / "confidence.json"
TASKS = ("trec", "mrpc")
STAGES: tuple[Stage, ...] = ("prepare", "baseline", "analyse")
SEED = 0
JOBS = 400  # simulated for each case
CASES = ((800, 500), (400, 250), (200, 200))
"""Rows of the selection split and of the holdout."""
BOUNDS = (0.01, 0.02, 0.03)
FASTER = 6.0  # where the narrowing ends
ROUNDS = 18  # of the narrowing: candidates close to each other
Correct = npt.NDArray[np.bool_]


def main() -> None:
    """Store the marks of each task, then simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tuple(QUALITY_TASKS), default=list(TASKS))
    for name in parser.parse_args().tasks:
        told = {"machine": machine(), "jobs": JOBS} | of_task(Dense(name, SEED, CACHE))
        record(name, told, RESULTS)
        print(json.dumps({name: told}, indent=1), flush=True)


def of_task(dense: Dense) -> dict[str, Any]:
    """The candidates and the simulated jobs of a fine-tuned model."""
    folder = dense.folder / "confidence"
    shutil.rmtree(folder, ignore_errors=True)
    run = Run(JobSpec.model_validate(spec_of(dense, Asked(), all_at_once)), folder, SilentReporter())
    do_stages(run, STAGES)
    whole, found = marks(run)
    shutil.rmtree(folder)
    candidates = spread(whole, found)
    return {
        "rows_of_the_pool": len(whole),
        "dense_on_the_pool": float(whole.mean()),
        "drops_on_the_pool": [_drop(whole, each) for each in candidates],
        "cases": [
            simulated(whole, candidates, selection, holdout, bound)
            for selection, holdout in CASES
            if selection + holdout <= len(whole)
            for bound in BOUNDS
        ],
    }


def marks(run: Run) -> tuple[Correct, list[Correct]]:
    """What the dense model and each structure get right, on selection split and holdout: (rows,) each."""
    whole = search_problem(run, run.anatomy, Goal(), tell=lambda *_: None)
    full = run.anatomy.full_shape()
    goal = Goal(ms=whole.costs(full).ms / FASTER)
    problem = search_problem(run, run.anatomy, goal, tell=lambda *_: None)
    shapes = [full, *(full.applied(recipe) for recipe, _ in narrow(problem, Recipe(), rounds=ROUNDS))]
    holdout = run.origin.encoded(run.data.holdout())
    scorers = [Scorer(run.task, "accuracy", split) for split in (run.selection, holdout)]
    right = [np.concatenate([_right(run, shape, scorer) for scorer in scorers]) for shape in shapes]
    return right[0], right[1:]


def spread(dense: Correct, found: list[Correct]) -> list[Correct]:
    """As many as a climb has rungs, with drops from none to twice the largest bound as even as there are."""
    wanted = np.linspace(0.0, 2.0 * max(BOUNDS), MAX_RUNGS)
    drops = np.array([_drop(dense, each) for each in found])
    return [found[place] for place in sorted({int(np.argmin(abs(drops - each))) for each in wanted})]


def _drop(dense: Correct, other: Correct) -> float:
    return relative_drop(float(dense.mean()), float(other.mean()))


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
                drop = _drop(dense[judging], best[judging])
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
