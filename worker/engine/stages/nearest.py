"""What comes nearest to constraints that are missed: by the rungs measured, and by what could go at all."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from models.spec import Constraints
from worker.engine.measure.intervals import relative_drop
from worker.engine.measure.verdict import AT_LEAST
from worker.engine.run import Run
from worker.engine.stages.rungs import Rung
from worker.engine.workspace import read_json


def nearest(run: Run) -> dict[str, float]:
    """For every bound of the job, what its rungs came to; see `nearest_of`."""
    climb, baseline = (
        read_json(run.workspace.folder("recover") / "climb.json"),
        run.workspace.result("baseline"),
    )
    assert climb is not None
    assert baseline is not None
    return nearest_of(
        run.spec.constraints,
        [Rung.from_json(document) for document in climb["rungs"]],
        dense_metric=baseline["delivered_metric"],
        dense_bytes=baseline["dense_bytes"],
        batch_size=run.spec.target.batch_size,
    )


def nearest_of(
    constraints: Constraints,
    rungs: Sequence[Rung],
    *,
    dense_metric: float,
    dense_bytes: int,
    batch_size: int,
) -> dict[str, float]:
    """For every bound that `constraints` gives, by its name: the best value that one of `rungs` had which
    held all others, or, where none did, that any rung had. All on the selection split.
    """
    found = {}
    for name in _bounds(constraints):
        holding = [rung for rung in rungs if not rung.violations.keys() - {name}] or rungs
        values = [_value(rung, name, dense_metric, dense_bytes, batch_size) for rung in holding]
        found[name] = max(values) if name in AT_LEAST else min(values)
    return found


def out_of_reach(constraints: Constraints, utmost: Mapping[str, float], missed: Container[str]) -> list[str]:
    """A sentence for every ratio that is asked for and cannot be reached.

    `utmost`: speedup and size reduction that are predicted with everything removed that may go. Of a
    constraint that the delivered rung holds, which is not among `missed`, no prediction tells otherwise.
    """
    limits = (
        ("speed.min_speedup", constraints.speed.min_speedup, utmost["speedup"], "faster"),
        ("size.min_reduction", constraints.size.min_reduction, utmost["size_reduction"], "smaller"),
    )
    return [
        f"{name} {asked:g} is out of reach: with everything removed that the job allows, the model is "
        f"predicted to be {limit:.2f} times {what}."
        for name, asked, limit, what in limits
        if asked is not None and limit < asked and name in missed
    ]


def _bounds(constraints: Constraints) -> list[str]:
    """Names of the bounds that are given, as the certificate lists them."""
    parts = {"accuracy": constraints.accuracy, "size": constraints.size, "speed": constraints.speed}
    how = {"confidence", "percentile"}
    return [
        f"{part}.{name}"
        for part, bounds in parts.items()
        for name in bounds.model_dump(exclude=how, exclude_none=True)
    ]


def _value(rung: Rung, name: str, dense_metric: float, dense_bytes: int, batch_size: int) -> float:
    return {
        "accuracy.max_relative_drop": relative_drop(dense_metric, rung.metric),
        "accuracy.max_absolute_drop": dense_metric - rung.metric,
        "accuracy.min": rung.metric,
        "accuracy.max": -rung.metric,  # of metrics of which less is better, whose scores are negated
        "accuracy.min_gain": rung.metric - dense_metric,
        "size.min_reduction": dense_bytes / rung.size_bytes,
        "size.max_bytes": float(rung.size_bytes),
        "speed.min_speedup": rung.speedup,
        "speed.max_latency_ms": rung.ms,
        "speed.min_throughput": 1e3 * batch_size / rung.ms,
    }[name]
