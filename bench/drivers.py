"""Parts `hidden` and `drivers` of `bench/analysis.py`: what narrows a model, compared on the selection split.

A dense MiniLM for thirty intents of BANKING77, which come with the project. Costs are multiply-accumulates,
so that nothing is timed and the numbers hold on any machine. No holdout row is read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.main import base_model, data_folder
from models.spec import ApproximationName, EstimatorName, JobSpec, Recipe
from worker.engine.anatomy import Shape
from worker.engine.anatomy.slicing import sliced
from worker.engine.pipeline import do_stages
from worker.engine.reporting import SilentReporter, Stage
from worker.engine.run import Run
from worker.engine.significance.agreement import agreement, agreement_by_kind
from worker.engine.significance.base import Material, Significance, Tally
from worker.engine.significance.elements import Element, hidden_elements
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.significance.registry import ESTIMATORS
from worker.engine.significance.report import all_elements
from worker.engine.significance.siblings import sibling_sets
from worker.engine.stages.fitting import judged, learning_rate, recovery_options
from worker.engine.stages.problem import COMPARED_ROWS, judgement, sample
from worker.engine.strategies.base import Judgement, SearchProblem
from worker.engine.strategies.goal import CostModel, DenseReference, Goal
from worker.engine.strategies.narrowing import narrowed
from worker.engine.tasks import evaluate
from worker.engine.training import TeacherCache, distil

DATA = "banking77-30"
BASELINE = {"epochs": 8, "learning_rate": 2e-4}  # as examples/banking77.yaml has it
STAGES: tuple[Stage, ...] = ("prepare", "baseline")
MINUTES = 20.0
SEED = 0
JUDGED_ROWS = 256  # of the selection split, for single elements
SIZES = (8, 32)  # dimensions of a hidden group; the second is the default of MiniLM
CUMULATIVE = (0.25, 0.5)  # of the hidden dimensions, removed in an order
PARTS = (0.5, 0.3)  # of the multiply-accumulates of the layers, that narrowing leaves
DRIVERS: tuple[EstimatorName, ...] = ("fisher", "taylor", "obs", "reconstruction")
WIDTH: tuple[ApproximationName, ...] = ("prune_blocks", "prune_heads", "prune_weight_groups")
EPOCHS = 2  # of distillation on the training rows, the same for all


def dense_run(cache: Path) -> Run:
    """The job up to its baseline, from the cache where it was made before."""
    spec = JobSpec.model_validate(
        {
            "base_model": {"path": str(base_model())},
            "dataset": {"path": str(data_folder(DATA))},
            "approximations": ["quantize"],
            "baseline": BASELINE,
            "recovery": {"epochs": EPOCHS},
            "budget": {"max_minutes": MINUTES},
            "seed": SEED,
        }
    )
    run = Run(spec, cache / spec.digest()[:12], SilentReporter())
    do_stages(run, STAGES)
    return run


def hidden(run: Run) -> dict[str, Any]:
    """How far estimates of hidden groups agree with exact ablation, and what removing by them costs.

    `agreement`: of contiguous groups, by their size. `scale`: the median of exact loss change over estimate,
    by kind of element: an allocation sums estimates of all kinds, so they should be alike. `cumulative`: the
    loss with a part of the dimensions removed in groups of the default size, by the estimate's order of
    dimensions, by the exact order of contiguous groups, and by chance (three orders).
    """
    anatomy, width = run.anatomy, run.anatomy.hidden_size
    full, rows = anatomy.full_shape(), sample(run.selection, JUDGED_ROWS, SEED)
    replay = PrefixReplay(anatomy, rows, run.task, run.device, precision="fp32")
    base = float(replay.losses(full).mean())

    def losses(elements: Sequence[Element]) -> dict[str, float]:
        return {
            element.id: float(each.mean())
            for siblings in sibling_sets(elements, full)
            for element, each in zip(siblings, replay.losses_without(siblings), strict=True)
        }

    told: dict[str, Any] = {"base_loss": base, "rows": len(rows), "agreement": {}, "cumulative": {}}
    weights = {name: _weights(run, full, name, hidden=True) for name in ("fisher", "taylor")}
    for size in SIZES:
        groups = hidden_elements(full, width, size)
        without = losses(groups)
        exact = [without[group.id] - base for group in groups]
        told["agreement"][str(size)] = {
            name: agreement(exact, [each.of(group) for group in groups]) for name, each in weights.items()
        } | {"groups": len(groups)}
    elements = all_elements(full)
    without = losses(elements)
    changes = [without[each.id] - base for each in elements] + exact
    kinds, everything = [each.kind for each in [*elements, *groups]], [*elements, *groups]
    fisher = [weights["fisher"].of(each) for each in everything]
    told["scale"] = {
        kind: float(np.median([c / f for c, f, k in zip(changes, fisher, kinds, strict=True) if k == kind]))
        for kind in dict.fromkeys(kinds)
    }
    told["agreement_of_all_kinds"] = agreement_by_kind(kinds, changes, fisher)
    by_exact = [groups[at] for at in np.argsort(exact, kind="stable")]
    orders = {
        "fisher": hidden_elements(full, width, SIZES[-1], weights["fisher"].hidden_scores()),
        "exact": by_exact,
    }
    for number in range(3):
        ranking = np.random.default_rng(number).random(width)
        orders[f"chance_{number}"] = hidden_elements(full, width, SIZES[-1], ranking)
    for part in CUMULATIVE:
        told["cumulative"][str(part)] = {
            name: _loss_without(replay, full, order[: round(part * len(order))])
            for name, order in orders.items()
        }
    return told


def drivers(run: Run) -> dict[str, Any]:
    """The model narrowed to parts of its multiply-accumulates by every estimator, then distilled alike.

    Loss and accuracy on the selection split before and after; `fisher_with_hidden` may remove hidden groups
    as well.
    """
    teacher = TeacherCache(run.anatomy.model, run.train, range(run.anatomy.layers), device=run.device)
    ways: dict[str, tuple[EstimatorName, bool]] = {name: (name, False) for name in DRIVERS}
    ways["fisher_with_hidden"] = ("fisher", True)
    told: dict[str, Any] = {}
    for part in PARTS:
        told[str(part)] = {}
        for way, (name, may_hidden) in ways.items():
            began = time.perf_counter()
            problem = _problem(run, part, name, may_hidden=may_hidden)
            recipe = narrowed(problem, Recipe())
            seconds = time.perf_counter() - began
            told[str(part)][way] = _told(run, teacher, recipe) | {"narrowing_seconds": round(seconds, 1)}
            print(part, way, told[str(part)][way], flush=True)
    return told


def _told(run: Run, teacher: TeacherCache, recipe: Recipe) -> dict[str, Any]:
    """The structure of a recipe before and after distillation."""
    shape, anatomy = run.shape(recipe), run.anatomy
    student = sliced(anatomy.model, shape)
    untrained = judged(run, student)
    options = recovery_options(run, learning_rate(run, student, anatomy.model), 3600.0)
    distil(
        student,
        teacher,
        run.train,
        run.selection,
        run.task,
        replace(options, hard=type(options).hard),
        device=run.device,
        reporter=run.reporter,
        stage="recover",
    )
    trained = judged(run, student)
    return {
        "untrained_loss": untrained.loss,
        "untrained_metric": untrained.metric,
        "loss": trained.loss,
        "metric": trained.metric,
        "parameters": anatomy.parameters(shape),
        "hidden_gone": len(shape.hidden_gone),
    }


def _problem(run: Run, part: float, name: EstimatorName, *, may_hidden: bool) -> SearchProblem:
    anatomy, length = run.anatomy, run.length()
    whole = float(anatomy.macs(anatomy.full_shape(), length))
    shown = sample(run.selection, COMPARED_ROWS[0], SEED)

    def judge(shape: Shape) -> Judgement:
        with anatomy.masked(shape):
            return judgement(run, evaluate(anatomy.model, shown, run.task, device=run.device))

    return SearchProblem(
        anatomy=anatomy,
        judge=judge,
        divergence=lambda shape: judge(shape).loss,
        significance=lambda shape: _weights(run, shape, name, hidden=may_hidden),
        costs=CostModel(lambda shape: float(anatomy.macs(shape, length)), anatomy.parameters, 1.0, 1, 0.0),
        dense=DenseReference(whole, 1.0, 1),
        goal=Goal(ms=part * whole),
        focus="speed",
        allowed=frozenset({*WIDTH, "prune_hidden"} if may_hidden else WIDTH),
        trials=None,
        length=length,
        max_candidates=1000,
    )


def _weights(run: Run, shape: Shape, name: EstimatorName, *, hidden: bool) -> Significance:
    rows = sample(run.train, COMPARED_ROWS[0], SEED)
    given = Material(run.anatomy, shape, rows, run.task, run.device, hidden=hidden, tally=Tally())
    return ESTIMATORS[name].weigh(given)


def _loss_without(replay: PrefixReplay, full: Shape, gone: Sequence[Element]) -> float:
    for element in gone:
        full = element.removed_from(full)
    return float(replay.losses(full).mean())
