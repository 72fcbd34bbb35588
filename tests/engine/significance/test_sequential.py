"""Changes that are given up early: never wrongly more often than the error rate, and mostly early."""

from __future__ import annotations

import numpy as np
import pytest

from worker.engine.significance.sequential import SumBelowZero, looking_order

ROWS = 200
RATE = 0.1


def given_up(change: np.ndarray, rival: np.ndarray, order: np.ndarray, fixed: int, rate: float) -> int | None:
    """After how many rows a change of these losses is given up; None where it never is."""
    test = SumBelowZero(-rival[order], fixed=fixed, error_rate=rate)
    for seen, row in enumerate(order, start=1):
        if test.add(change[[row]]):
            return seen
    return None


def rival_losses(generator: np.random.Generator) -> np.ndarray:
    """As of a trained classifier: most rows are sure, some are wrong by far."""
    return np.where(
        generator.random(ROWS) < 0.1, generator.exponential(2.0, ROWS), generator.random(ROWS) * 0.05
    )


def just_wanted(generator: np.random.Generator, rival: np.ndarray) -> np.ndarray:
    """Loss differences, not below -rival, whose sum is just below zero: the hardest case."""
    worse = np.where(generator.random(ROWS) < 0.05, generator.exponential(1.0, ROWS), 0.0)
    better = rival * generator.random(ROWS)
    scale = better.sum() / max(worse.sum(), 1e-9)
    return np.maximum(worse * scale * 0.999 - better, -rival)


@pytest.mark.parametrize("hardest", [0.0, 0.125])
def test_a_wanted_change_is_given_up_no_more_often_than_the_rate(hardest: float) -> None:
    wrong, trials = 0, 1500
    for seed in range(trials):
        generator = np.random.default_rng(seed)
        rival = rival_losses(generator)
        change = just_wanted(generator, rival)
        assert change.sum() < 0
        order, fixed = looking_order(rival, hardest=hardest, seed=seed)
        wrong += given_up(change, rival, order, fixed, RATE) is not None
    # Three standard deviations of the count above the rate.
    assert wrong / trials <= RATE + 3 * np.sqrt(RATE * (1 - RATE) / trials)


def test_the_bets_do_win() -> None:
    """Without this a test that never gives anything up would keep the rate as well."""
    generator = np.random.default_rng(0)
    rival = rival_losses(generator)
    change = np.where(generator.random(ROWS) < 0.3, 1.0, 0.0) - 0.1 * rival
    order, fixed = looking_order(rival, hardest=0.125, seed=0)
    seen = given_up(change, rival, order, fixed, 0.01)
    assert seen is not None
    assert seen < ROWS / 4
    certain = given_up(change, rival, order, fixed, 0.0)
    assert certain is None or certain >= seen


def test_with_rate_zero_nothing_is_given_up_that_could_be_wanted() -> None:
    for seed in range(300):
        generator = np.random.default_rng(seed)
        rival = rival_losses(generator)
        order, fixed = looking_order(rival, hardest=0.125, seed=seed)
        assert given_up(just_wanted(generator, rival), rival, order, fixed, 0.0) is None


def test_what_no_row_can_make_up_for_is_given_up_for_certain() -> None:
    rival = np.array([4.0, 0.1, 0.1, 0.1])
    test = SumBelowZero(-rival, fixed=1, error_rate=0.0)
    assert test.add(np.array([0.5]))  # the three rows left can take back 0.3
    assert not SumBelowZero(-rival, fixed=1, error_rate=0.0).add(np.array([0.2]))


def test_the_hardest_rows_come_first_and_the_rest_by_chance() -> None:
    losses = np.array([0.1, 3.0, 0.2, 5.0, 0.3, 0.4, 0.5, 0.6])
    order, fixed = looking_order(losses, hardest=0.25, seed=0)
    assert (order[:fixed].tolist(), fixed) == ([3, 1], 2)
    assert sorted(order.tolist()) == list(range(8))
    orders = {tuple(looking_order(losses, hardest=0.25, seed=seed)[0]) for seed in range(20)}
    assert len(orders) > 10
    assert {each[:2] for each in orders} == {(3, 1)}
