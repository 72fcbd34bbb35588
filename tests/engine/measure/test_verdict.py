from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest

from models.spec import AccuracyConstraint, Constraints
from worker.engine.measure.intervals import PairedBootstrap
from worker.engine.measure.verdict import Measured, allowed_drop, evaluate_constraints, judge

MEASURED = Measured(
    dense_metric=0.90,
    optimized_metric=0.891,
    dense_bytes=90_000,
    optimized_bytes=18_000,
    speedup=3.0,
    p50=2.0,
    p95=3.5,
    throughput=450.0,
)


@pytest.mark.parametrize(
    ("constraints", "name", "measured", "met"),
    [
        ({"accuracy": {"max_relative_drop": 0.01}}, "accuracy.max_relative_drop", 0.01, True),
        ({"accuracy": {"max_relative_drop": 0.009}}, "accuracy.max_relative_drop", 0.01, False),
        ({"accuracy": {"max_relative_drop": 0.0}}, "accuracy.max_relative_drop", 0.01, False),
        ({"accuracy": {"max_absolute_drop": 0.009}}, "accuracy.max_absolute_drop", 0.009, True),
        ({"accuracy": {"max_absolute_drop": 0.008}}, "accuracy.max_absolute_drop", 0.009, False),
        ({"accuracy": {"min": 0.891}}, "accuracy.min", 0.891, True),
        ({"accuracy": {"min": 0.9}}, "accuracy.min", 0.891, False),
        ({"accuracy": {"min_gain": 0.0}}, "accuracy.min_gain", -0.009, False),
        ({"size": {"min_reduction": 5.0}}, "size.min_reduction", 5.0, True),
        ({"size": {"min_reduction": 5.1}}, "size.min_reduction", 5.0, False),
        ({"size": {"max_bytes": 18_000}}, "size.max_bytes", 18_000, True),
        ({"size": {"max_bytes": 17_999}}, "size.max_bytes", 18_000, False),
        ({"speed": {"min_speedup": 3.0}}, "speed.min_speedup", 3.0, True),
        ({"speed": {"min_speedup": 3.01}}, "speed.min_speedup", 3.0, False),
        ({"speed": {"max_latency_ms": 2.0}}, "speed.max_latency_ms", 2.0, True),
        ({"speed": {"max_latency_ms": 2.0, "percentile": "p95"}}, "speed.max_latency_ms", 3.5, False),
        ({"speed": {"min_throughput": 450}}, "speed.min_throughput", 450.0, True),
        ({"speed": {"min_throughput": 451}}, "speed.min_throughput", 450.0, False),
    ],
)
def test_every_bound(constraints: dict[str, Any], name: str, measured: float, met: bool) -> None:
    (result,) = evaluate_constraints(Constraints.model_validate(constraints), MEASURED)
    assert (result.name, result.met) == (name, met)
    assert result.measured == pytest.approx(measured)


def test_only_the_bounds_that_are_given_are_judged() -> None:
    assert evaluate_constraints(Constraints(), MEASURED) == ()
    both = Constraints.model_validate({"accuracy": {"min": 0.5}, "speed": {"min_speedup": 9}})
    assert [r.name for r in evaluate_constraints(both, MEASURED)] == ["accuracy.min", "speed.min_speedup"]


def test_a_level_judges_the_unfavourable_end_of_the_interval() -> None:
    drops = np.linspace(0.0, 0.02, 1001)
    paired = PairedBootstrap(0.9, 0.89, np.full(1001, 0.9), 0.9 - drops)
    measured = replace(MEASURED, optimized_metric=0.89, paired=paired)

    def judged(bound: dict[str, Any]) -> Any:
        (result,) = evaluate_constraints(Constraints.model_validate({"accuracy": bound}), measured)
        return result

    assert judged({"max_absolute_drop": 0.015}).met
    assert not judged({"max_absolute_drop": 0.015, "confidence": 0.95}).met
    assert judged({"max_absolute_drop": 0.02, "confidence": 0.9}).measured == pytest.approx(0.019)
    assert judged({"max_relative_drop": 0.5, "confidence": 0.9}).measured == pytest.approx(0.019 / 0.9)
    assert judged({"min": 0.5, "confidence": 0.9}).measured == pytest.approx(0.881)
    assert judged({"min_gain": 0.0, "confidence": 0.9}).measured == pytest.approx(-0.019)


def test_a_level_without_an_interval_is_refused() -> None:
    constraints = Constraints.model_validate({"accuracy": {"min": 0.5, "confidence": 0.95}})
    with pytest.raises(ValueError, match="paired bootstrap"):
        evaluate_constraints(constraints, MEASURED)


def test_infeasible_is_said_only_of_what_was_proved() -> None:
    unmet = evaluate_constraints(Constraints.model_validate({"speed": {"min_speedup": 9}}), MEASURED)
    assert judge(unmet) == "best_effort"
    assert judge(unmet, proved_infeasible=True) == "infeasible"
    assert judge((), proved_infeasible=True) == "met"


@pytest.mark.parametrize(
    ("constraint", "allowed"),
    [
        ({}, inf),
        ({"max_relative_drop": 0.02}, 0.016),
        ({"max_relative_drop": 0.02, "max_absolute_drop": 0.01}, 0.01),
        ({"max_absolute_drop": 0.1, "min": 0.78}, 0.02),
        ({"min": 0.9}, -0.1),
        ({"min_gain": 0.01}, -0.01),
    ],
)
def test_the_tightest_bound_says_what_the_metric_may_lose(constraint: dict[str, Any], allowed: float) -> None:
    assert allowed_drop(AccuracyConstraint(**constraint), 0.8) == pytest.approx(allowed)
