from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engine.measure.intervals import bootstrap_accuracy, bootstrap_score, relative_drop
from worker.engine.tasks import Marks


def accuracy(marks: Marks) -> float:
    return float((marks.values[:, 0] == marks.values[:, 1]).mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 1000))
def test_the_same_logits_have_an_interval_of_no_width_at_no_drop(rows: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    marks = Marks(rng.integers(classes, size=(rows, 2)).astype(np.float64))
    paired = bootstrap_score(accuracy, marks, Marks(marks.values.copy()), resamples=50, seed=seed)
    assert paired.relative_drop == paired.absolute_drop == 0.0
    assert paired.relative_drop_interval() == paired.absolute_drop_interval() == (0.0, 0.0)
    right = marks.values[:, 0] == marks.values[:, 1]
    assert bootstrap_accuracy(right, right, seed=seed).relative_drop_interval() == (0.0, 0.0)


def test_counts_give_the_interval_that_resampled_rows_give() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=400)
    dense = np.where(rng.random(400) < 0.9, labels, (labels + 1) % 3)
    optimized = np.where(rng.random(400) < 0.85, labels, (labels + 2) % 3)
    fast = bootstrap_accuracy(dense == labels, optimized == labels)
    marks = (Marks(np.stack([answers, labels], axis=1).astype(np.float64)) for answers in (dense, optimized))
    slow = bootstrap_score(accuracy, *marks, resamples=4000)
    assert fast.dense == slow.dense
    assert fast.optimized == slow.optimized
    for mine, theirs in (
        (fast.relative_drop_interval(), slow.relative_drop_interval()),
        (fast.absolute_drop_interval(), slow.absolute_drop_interval()),
        (fast.optimized_interval(), slow.optimized_interval()),
    ):
        assert mine == pytest.approx(theirs, abs=0.006)


def test_the_interval_covers_the_true_drop_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    cells = [0.85, 0.06, 0.03, 0.06]  # both right, dense only, optimized only, neither
    true_drop = cells[1] - cells[2]
    covered = 0
    for seed in range(400):
        drawn = rng.choice(4, size=500, p=cells)
        paired = bootstrap_accuracy(drawn <= 1, (drawn == 0) | (drawn == 2), resamples=1000, seed=seed)
        low, high = paired.absolute_drop_interval(0.95)
        covered += low <= true_drop <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_pairing_makes_the_interval_narrower_than_independent_rows_would() -> None:
    rng = np.random.default_rng(2)
    dense = rng.random(1000) < 0.9
    optimized = dense ^ (rng.random(1000) < 0.02)
    paired = bootstrap_accuracy(dense, optimized)
    shuffled = bootstrap_accuracy(dense, rng.permutation(optimized))

    def width(interval: tuple[float, float]) -> float:
        return interval[1] - interval[0]

    assert width(paired.absolute_drop_interval()) < 0.6 * width(shuffled.absolute_drop_interval())


def test_a_higher_level_is_wider_and_a_seed_decides() -> None:
    rng = np.random.default_rng(3)
    dense, optimized = rng.random(300) < 0.9, rng.random(300) < 0.8
    paired = bootstrap_accuracy(dense, optimized, seed=5)
    assert paired.relative_drop_interval(0.99)[1] > paired.relative_drop_interval(0.8)[1]
    again = bootstrap_accuracy(dense, optimized, seed=5)
    assert again.relative_drop_interval() == paired.relative_drop_interval()


def test_relative_drop_of_a_dense_metric_of_zero_is_the_absolute_one() -> None:
    assert relative_drop(0.0, -0.25) == 0.25
    assert relative_drop(0.8, 0.6) == pytest.approx(0.25)
    assert relative_drop(-0.5, -0.25) == pytest.approx(-0.5)


def test_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        bootstrap_accuracy(np.ones(3, dtype=bool), np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match="same rows"):
        bootstrap_accuracy(np.ones(0, dtype=bool), np.ones(0, dtype=bool))
