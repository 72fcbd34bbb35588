"""Measuring a rung: the delivered file's score, size and time, held against the constraints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from models.spec import Candidate, CandidateMeasurements, Quantize, Recipe, metric_value
from worker.engine.anatomy import anatomy_of
from worker.engine.delivery import Delivered, deliver
from worker.engine.measure.intervals import PairedBootstrap, paired_bootstrap
from worker.engine.measure.margin import UNSEEN, foreseen, surer
from worker.engine.measure.verdict import Measured, evaluate_constraints
from worker.engine.run import Run
from worker.engine.stages.baseline import dense_files, dense_logits, quantization
from worker.engine.stages.rungs import MAX_RUNGS, Rung, best_of, has_room
from worker.engine.stages.timing import TimedFile, timed, timed_again


def measured_rung(
    run: Run, number: int, student: PreTrainedModel, recipe: Recipe, folder: Path, training_seconds: float
) -> Rung:
    """The trained student of a recipe in the form that does best; each form's file lies below `folder`."""
    rungs = [
        _measured(run, number, student, form, folder / name, training_seconds)
        for name, form in _forms(run, recipe).items()
    ]
    return best_of(rungs, run.spec.focus)


def report_rung(run: Run, rung: Rung, student: PreTrainedModel) -> None:
    """Tell of the rung as a candidate."""
    searched = run.workspace.result("search")
    baseline = run.workspace.result("baseline")
    assert searched is not None
    assert baseline is not None
    anatomy = anatomy_of(student)
    run.reporter.candidate(
        Candidate(
            number=searched["candidates"] + rung.number,
            stage="recover",
            recipe=rung.recipe,
            measurements=CandidateMeasurements(
                metric=metric_value(run.spec.metric, rung.metric),
                parameters=anatomy.parameters(anatomy.full_shape()),
                macs=anatomy.macs(anatomy.full_shape(), run.length()),
                size_bytes=rung.size_bytes,
                latency_ms=rung.ms,
                latency_source="measured",
                speedup=rung.speedup,
                size_reduction=baseline["dense_bytes"] / rung.size_bytes,
            ),
            accepted=not rung.violations,
            reason="all constraints hold on the selection split"
            if not rung.violations
            else "missed on the selection split: " + ", ".join(rung.violations),
        )
    )


def _forms(run: Run, recipe: Recipe) -> dict[str, Recipe]:
    """How the rung may be delivered. With accuracy focus quantization has to earn its place."""
    plain = Recipe(steps=tuple(step for step in recipe.steps if not isinstance(step, Quantize)))
    quantized = plain.then(*quantization(run).steps)
    forms = {"quantized": quantized} if quantized != plain else {"fp32": plain}
    return {**forms, "fp32": plain} if run.spec.focus == "accuracy" else forms


def _measured(
    run: Run, number: int, student: PreTrainedModel, recipe: Recipe, folder: Path, training_seconds: float
) -> Rung:
    began = run.stopwatch.used
    run.progress("recover", number, None, "measuring the recovered model on the target")
    delivered = deliver(run, student, recipe, folder)
    times = timed(run, delivered.file, *dense_files(run))
    violations = _violations(run, delivered, times)
    if any(name.startswith("speed.") for name in violations):
        # What a machine does besides only adds to a time: before more is removed, it is timed once more.
        times = timed_again(run, times, delivered.file, *dense_files(run))
        violations = _violations(run, delivered, times)
    return Rung(
        number=number,
        recipe=recipe,
        metric=delivered.metric,
        speedup=times.speedup,
        ms=times.ms,
        size_bytes=delivered.size_bytes,
        violations=violations,
        comfortable=not any(name.startswith("accuracy.") for name in violations)
        and has_room(run.spec.constraints.accuracy, _baseline(run)["delivered_metric"], delivered.metric),
        training_seconds=training_seconds,
        measuring_seconds=run.stopwatch.used - began,
    )


def _violations(run: Run, delivered: Delivered, times: TimedFile) -> dict[str, float]:
    """By how much the constraints are missed on the selection split; see `Rung`."""
    baseline = _baseline(run)
    results = evaluate_constraints(
        surer(run.spec.constraints, MAX_RUNGS),
        Measured(
            dense_metric=baseline["delivered_metric"],
            optimized_metric=delivered.metric,
            dense_bytes=baseline["dense_bytes"],
            optimized_bytes=delivered.size_bytes,
            speedup=times.speedup,
            p50=times.p50,
            p95=times.p95,
            throughput=times.throughput,
            paired=_paired(run, delivered),
        ),
    )
    return {r.name: _miss(r.required, r.measured) for r in results if not r.met}


def _baseline(run: Run) -> dict[str, Any]:
    baseline = run.workspace.result("baseline")
    assert baseline is not None
    return baseline


def _paired(run: Run, delivered: Delivered) -> PairedBootstrap | None:
    """What the holdout may say, where the accuracy constraint asks for a confidence level."""
    if run.spec.constraints.accuracy.confidence == "point":
        return None
    scorer = run.scorer
    paired = paired_bootstrap(
        scorer,
        run.dense.scorer.marks(dense_logits(run)),
        scorer.marks(delivered.logits),
        seed=run.spec.seed,
        unseen=UNSEEN,
    )
    return foreseen(paired, len(run.selection), run.data.rows["holdout"])


def _miss(required: float, measured: float) -> float:
    """How far a constraint is missed, relative to what it asks."""
    return abs(measured - required) / max(abs(required), 1e-3)
