"""Allocation against trying every choice there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from worker.engine.strategies.allocation import Option, allocate


def instance(seed: int, blocks: int, options: int, resources: int) -> list[list[Option]]:
    """Random blocks; the first option of each costs nothing and saves nothing."""
    random = np.random.default_rng(seed)
    nothing = Option(0.0, (0.0,) * resources)
    return [
        [nothing, *(Option(random.random(), tuple(random.random(resources))) for _ in range(options - 1))]
        for _ in range(blocks)
    ]


def totals(blocks: list[list[Option]], chosen: list[int]) -> tuple[float, np.ndarray]:
    taken = [options[at] for options, at in zip(blocks, chosen, strict=True)]
    return sum(each.significance for each in taken), np.sum([each.savings for each in taken], axis=0)


def best(blocks: list[list[Option]], needed: list[float]) -> float | None:
    """The least significance over all choices that save enough."""
    every = (totals(blocks, list(chosen)) for chosen in product(*(range(len(each)) for each in blocks)))
    return min((lost for lost, saved in every if (saved >= needed).all()), default=None)


@pytest.mark.parametrize("resources", [1, 2])
@pytest.mark.parametrize("seed", range(20))
def test_no_choice_that_saves_enough_loses_less(seed: int, resources: int) -> None:
    blocks = instance(seed, blocks=5, options=4, resources=resources)
    needed = list(np.random.default_rng(100 + seed).uniform(0.5, 2.5, resources))
    chosen, least = allocate(blocks, needed), best(blocks, needed)
    if chosen is None:
        assert least is None
        return
    lost, saved = totals(blocks, chosen)
    assert lost == pytest.approx(least)
    assert (saved >= np.asarray(needed) * (1 - 1e-9)).all()


def test_what_nothing_can_save_is_not_allocated() -> None:
    blocks = instance(0, blocks=3, options=3, resources=1)
    most = sum(max(each.savings[0] for each in options) for options in blocks)
    assert allocate(blocks, [most * 1.01]) is None
    at_the_edge = allocate(blocks, [most])
    assert at_the_edge is not None
    assert totals(blocks, at_the_edge)[1][0] == pytest.approx(most)


@pytest.mark.parametrize("resources", [1, 2])
def test_with_few_states_bounds_hold_all_the_same_and_little_is_lost(resources: int) -> None:
    blocks = instance(3, blocks=12, options=8, resources=resources)
    needed = [4.0] * resources
    fine, coarse = (allocate(blocks, needed, most_states=most) for most in (20_000, 400))
    assert fine is not None
    assert coarse is not None
    assert (totals(blocks, coarse)[1] >= np.asarray(needed) * (1 - 1e-9)).all()
    assert totals(blocks, coarse)[0] <= 1.2 * totals(blocks, fine)[0]


def test_nothing_is_given_up_where_nothing_is_needed() -> None:
    assert allocate(instance(1, 4, 4, 1), [0.0]) == [0, 0, 0, 0]
    assert allocate([], [0.0]) == []
    assert allocate([], [0.1]) is None
