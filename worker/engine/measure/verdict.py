"""Constraints against measurements: what was required, what was measured, whether it is met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from models.spec import (
    AccuracyConstraint,
    ConstraintResult,
    Constraints,
    Loadable,
    SizeConstraint,
    SpeedConstraint,
    Verdict,
)
from worker.engine.measure.intervals import PairedBootstrap, relative_drop

# A bound that is met exactly must not fail by the rounding of a division.
ROUNDING = 1e-12
AT_LEAST = frozenset(
    {
        "accuracy.min",
        "accuracy.min_gain",
        "size.min_reduction",
        "speed.min_speedup",
        "speed.min_throughput",
        "loadable.native",
    }
)
"""Constraints of which more is better; of all others less is."""


@dataclass(frozen=True)
class Measured:
    """What constraints are judged by. Milliseconds per call, examples per second, bytes.

    Metrics are scores: more is better, see `metric_value`. `paired` is needed only where
    `constraints.accuracy.confidence` is a level.
    """

    dense_metric: float
    optimized_metric: float
    dense_bytes: int
    optimized_bytes: int
    speedup: float
    p50: float
    p95: float
    throughput: float
    paired: PairedBootstrap | None = None
    loadable: Loadable | None = None


def evaluate_constraints(constraints: Constraints, measured: Measured) -> tuple[ConstraintResult, ...]:
    """One result for every bound that `constraints` gives: accuracy, size, speed, then how it is loaded.

    With a confidence level, accuracy bounds are judged by the unfavourable end of the two-sided
    paired interval at that level. Raises ValueError when a level is asked for without `paired`.
    """
    return (
        *_accuracy(constraints.accuracy, measured),
        *_size(constraints.size, measured),
        *_speed(constraints.speed, measured),
        *_loadable(constraints, measured),
    )


def judge(results: Sequence[ConstraintResult], *, proved_infeasible: bool = False) -> Verdict:
    """`met` when all are; otherwise `infeasible` only if the search proved it, else `best_effort`.

    The proof is as good as the search's predictions of costs, which `told_verdict` says.
    """
    if all(result.met for result in results):
        return "met"
    return "infeasible" if proved_infeasible else "best_effort"


def told_verdict(verdict: Verdict) -> list[str]:
    """What `infeasible` rests on, in a sentence; nothing of the other verdicts."""
    if verdict != "infeasible":
        return []
    return [
        "The verdict infeasible is predicted, not measured: with everything removed that the job allows, the "
        "predicted time or size is still well past what was asked."
    ]


def told_nearest(nearest: Mapping[str, float]) -> list[str]:
    """`nearest` of a certificate, in sentences."""
    return [
        f"{name} is missed; the nearest to it that a trained candidate came, with the other constraints held "
        f"if any did so, is {value:.4g} on the selection split."
        for name, value in nearest.items()
    ]


def allowed_drop(constraint: AccuracyConstraint, dense: float) -> float:
    """How far the score may fall below `dense`, in units of the metric: the tightest of the bounds given.

    Infinite without any, negative where a gain is asked for. Confidence levels are left out of account.
    """
    drops = (
        None if constraint.max_relative_drop is None else constraint.max_relative_drop * abs(dense),
        constraint.max_absolute_drop,
        None if constraint.min is None else dense - constraint.min,
        None if constraint.max is None else dense + constraint.max,  # scores are negated metrics there
        None if constraint.min_gain is None else -constraint.min_gain,
    )
    return min((drop for drop in drops if drop is not None), default=inf)


def _accuracy(constraint: AccuracyConstraint, measured: Measured) -> Iterator[ConstraintResult]:
    relative, absolute, metric = _judged_accuracy(constraint, measured)
    if constraint.max_relative_drop is not None:
        yield _held("accuracy.max_relative_drop", constraint.max_relative_drop, relative)
    if constraint.max_absolute_drop is not None:
        yield _held("accuracy.max_absolute_drop", constraint.max_absolute_drop, absolute)
    if constraint.min is not None:
        yield _held("accuracy.min", constraint.min, metric)
    if constraint.max is not None:
        yield _held("accuracy.max", constraint.max, -metric)  # of metrics of which less is better
    if constraint.min_gain is not None:
        yield _held("accuracy.min_gain", constraint.min_gain, -absolute)


def _judged_accuracy(constraint: AccuracyConstraint, measured: Measured) -> tuple[float, float, float]:
    """(relative drop, absolute drop, metric) as this constraint's confidence wants them."""
    if constraint.confidence == "point":
        dense, optimized = measured.dense_metric, measured.optimized_metric
        return relative_drop(dense, optimized), dense - optimized, optimized
    if measured.paired is None:
        raise ValueError("a confidence level needs the paired bootstrap of the metric")
    level = constraint.confidence
    return (
        measured.paired.relative_drop_interval(level)[1],
        measured.paired.absolute_drop_interval(level)[1],
        measured.paired.optimized_interval(level)[0],
    )


def _size(constraint: SizeConstraint, measured: Measured) -> Iterator[ConstraintResult]:
    if constraint.min_reduction is not None:
        reduction = measured.dense_bytes / measured.optimized_bytes
        yield _held("size.min_reduction", constraint.min_reduction, reduction)
    if constraint.max_bytes is not None:
        yield _held("size.max_bytes", constraint.max_bytes, measured.optimized_bytes)


def _speed(constraint: SpeedConstraint, measured: Measured) -> Iterator[ConstraintResult]:
    if constraint.min_speedup is not None:
        yield _held("speed.min_speedup", constraint.min_speedup, measured.speedup)
    if constraint.max_latency_ms is not None:
        latency = measured.p50 if constraint.percentile == "p50" else measured.p95
        yield _held("speed.max_latency_ms", constraint.max_latency_ms, latency)
    if constraint.min_throughput is not None:
        yield _held("speed.min_throughput", constraint.min_throughput, measured.throughput)


def _loadable(constraints: Constraints, measured: Measured) -> Iterator[ConstraintResult]:
    """1 stands for yes. Where it is not known yet how the model is loaded, nothing is said of it."""
    if constraints.loadable is not None and measured.loadable is not None:
        yield _held("loadable.native", 1.0, float(measured.loadable == "native"))


def _held(name: str, required: float, measured: float) -> ConstraintResult:
    over = measured - required
    met = (-over if name in AT_LEAST else over) <= ROUNDING
    return ConstraintResult(name=name, required=required, measured=measured, met=met)
