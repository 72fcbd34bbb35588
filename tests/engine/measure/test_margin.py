"""The margin that the selection split keeps from a bound, checked against drawing both splits at random."""

from __future__ import annotations

import numpy as np
import pytest

from models.spec import Constraints
from worker.engine.measure.intervals import bootstrap_accuracy
from worker.engine.measure.margin import UNSEEN, foreseen, surer


def asked(confidence: object) -> Constraints:
    return Constraints.model_validate({"accuracy": {"max_relative_drop": 0.01, "confidence": confidence}})


def test_the_error_rate_is_shared_by_the_choices() -> None:
    assert surer(asked("point"), 6) == asked("point")
    assert surer(asked(0.95), 1).accuracy.confidence == pytest.approx(0.90)
    assert surer(asked(0.95), 5).accuracy.confidence == pytest.approx(0.98)
    assert surer(asked(0.5), 1).accuracy.confidence == 0.5
    assert surer(asked(0.95), 5).accuracy.max_relative_drop == 0.01


def test_a_holdout_as_large_doubles_the_variance() -> None:
    rng = np.random.default_rng(0)
    dense = rng.random(500) < 0.95
    paired = bootstrap_accuracy(dense, dense ^ (rng.random(500) < 0.05))
    ahead = foreseen(paired, 500, 500)
    spread = (ahead.dense_resampled - ahead.optimized_resampled).std()
    assert spread == pytest.approx(2**0.5 * (paired.dense_resampled - paired.optimized_resampled).std())
    assert ahead.absolute_drop == paired.absolute_drop


def test_two_models_that_agreed_so_far_may_disagree() -> None:
    right = np.ones(200, dtype=bool)
    assert bootstrap_accuracy(right, right).absolute_drop_interval() == (0.0, 0.0)
    low, high = bootstrap_accuracy(right, right, unseen=UNSEEN).absolute_drop_interval()
    assert -low == high == pytest.approx(0.01), "two rows of 200"
    many = np.ones(20_000, dtype=bool)
    assert bootstrap_accuracy(many, many, unseen=UNSEEN).absolute_drop_interval()[1] <= 0.0001


@pytest.mark.parametrize(("selection", "holdout"), [(400, 200), (200, 400)])
def test_the_foreseen_end_covers_the_holdouts_drop(selection: int, holdout: int) -> None:
    rng = np.random.default_rng(1)
    level, covered, jobs = surer(asked(0.95), 1).accuracy.confidence, 0, 300
    assert level != "point"
    for seed in range(jobs):
        dense = rng.random(selection + holdout) < 0.9
        optimized = dense & (rng.random(selection + holdout) > 0.04)
        optimized |= ~dense & (rng.random(selection + holdout) < 0.2)
        paired = bootstrap_accuracy(
            dense[:selection], optimized[:selection], resamples=1000, seed=seed, unseen=UNSEEN
        )
        end = foreseen(paired, selection, holdout).absolute_drop_interval(level)[1]
        covered += dense[selection:].mean() - optimized[selection:].mean() <= end
    assert 0.92 <= covered / jobs <= 0.985
