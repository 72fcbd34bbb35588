"""The search problem of a run: how shapes are judged, what they cost, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from models.spec import Recipe
from worker.engine.anatomy import Anatomy, Shape
from worker.engine.measure.latency_table import LatencyTable
from worker.engine.run import Run
from worker.engine.significance.fisher import FisherInformation, fisher_information
from worker.engine.stages.timing import reference_times
from worker.engine.stages.vocabulary import start_recipe
from worker.engine.strategies.base import Judgement, Score, SearchProblem
from worker.engine.strategies.goal import CostModel, DenseReference, Goal
from worker.engine.tasks import Evaluation, Split, evaluate
from worker.engine.workspace import read_json

# Of the training rows for Fisher information, and of the selection split while shapes are compared: the
# most of these that the time allows. Acceptance uses the whole selection split.
COMPARED_ROWS = (512, 256, 128)
SEARCH_PASSES = 90  # forward passes over them in a usual search, one for gradients counted three times
SEARCH_SHARE = 0.15  # of the budget, for these passes
MARGIN = 0.1  # predicted times must beat their bound by this part: the table errs by about as much


def cost_model(run: Run) -> CostModel:
    """Predicted costs in the precision that will be delivered."""
    baseline = run.workspace.result("baseline")
    stored = read_json(run.workspace.folder("analyse") / "latency_table.json")
    assert baseline is not None
    assert stored is not None
    table = LatencyTable.from_json(stored)
    full = run.anatomy.full_shape()
    # The table may be of a busier hour, or of another run.
    scale = reference_times(run).whole / table.predict(full)
    return CostModel(
        milliseconds=lambda shape: scale * table.predict(shape),
        parameters=run.anatomy.parameters,
        whole_bytes=baseline["whole_bytes"],
        whole_parameters=run.anatomy.parameters(full.applied(start_recipe(run))),
        bytes_per_parameter=1.0 if run.quantizes else 4.0,
    )


def dense_reference(run: Run) -> DenseReference:
    """The dense fp32 model's measured milliseconds a call and bytes."""
    baseline = run.workspace.result("baseline")
    assert baseline is not None
    return DenseReference(reference_times(run).dense, baseline["dense_bytes"], run.spec.target.batch_size)


def search_problem(
    run: Run,
    anatomy: Anatomy,
    goal: Goal,
    *,
    trials: Callable[[Sequence[Recipe]], Sequence[Score]] | None = None,
    tell: Callable[[str, int, int | None], None],
) -> SearchProblem:
    """The problem for the model of `anatomy`, dense or recovered. Looks at no holdout row."""
    exact = run.spec.focus == "accuracy"
    judged = run.selection if exact else sample(run.selection, compared_rows(run), run.spec.seed)

    def judge(shape: Shape) -> Judgement:
        run.reporter.check()
        with anatomy.masked(shape):
            # The published algorithm compares losses strictly: it gets fp32, the others what is fast.
            evaluation = evaluate(
                anatomy.model,
                judged,
                run.task,
                batch_size=128,
                device=run.device,
                precision="fp32" if exact else "fast",
            )
        return judgement(run, evaluation)

    return SearchProblem(
        anatomy=anatomy,
        judge=judge,
        fisher=lambda shape: fisher(run, anatomy, shape),
        costs=cost_model(run),
        dense=dense_reference(run),
        goal=goal,
        focus=run.spec.focus,
        allowed=frozenset(run.spec.approximations),
        trials=trials,
        length=run.length(),
        max_candidates=run.spec.budget.max_candidates,
        trials_together=run.spec.budget.max_workers > 1,
        start=start_recipe(run),
        tell=tell,
    )


def compared_rows(run: Run, passes: int = SEARCH_PASSES, share: float = SEARCH_SHARE) -> int:
    """How many rows so many passes may use, by the time that the dense model takes for one."""
    baseline = run.workspace.result("baseline")
    assert baseline is not None
    seconds = share * run.spec.budget.max_minutes * 60
    affordable = seconds / (passes * baseline["row_seconds"])
    return next((rows for rows in COMPARED_ROWS if rows <= affordable), COMPARED_ROWS[-1])


def fisher(run: Run, anatomy: Anatomy, shape: Shape) -> FisherInformation:
    """Gate gradients at `shape` on a sample of the training rows."""
    run.reporter.check()
    weighed = sample(run.train, compared_rows(run), run.spec.seed)
    return fisher_information(anatomy, shape, weighed, run.task, run.device)


def judgement(run: Run, evaluation: Evaluation) -> Judgement:
    """The evaluation, by the job's metric."""
    return Judgement(evaluation.loss, evaluation.metrics[run.spec.metric], evaluation.losses)


def sample(split: Split, rows: int, seed: int) -> Split:
    """At most `rows` of the split, seeded, in their order."""
    if len(split) <= rows:
        return split
    chosen = np.random.default_rng(seed).choice(len(split), size=rows, replace=False)
    return split.select(np.sort(chosen))
