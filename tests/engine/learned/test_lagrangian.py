"""Multipliers that climb bring a cost to its target, from either side, and several costs below theirs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from worker.engine.learned.expected_cost import Bound
from worker.engine.learned.lagrangian import Lagrangian, climber

STEPS = 1200


def settled(
    bounds: list[Bound], costs_of: Callable[[Tensor], list[Tensor]], task: Callable[[Tensor], Tensor]
) -> list[float]:
    """Costs at the end of a toy training of ten units, of which the task wants to keep all."""
    wishes = torch.nn.Parameter(torch.full((10,), 3.0))
    lagrangian = Lagrangian(bounds, warm_up=0.3)
    optimizers = [torch.optim.Adam([wishes], lr=0.05), climber(lagrangian, 0.05)]
    for step in range(STEPS):
        kept = torch.sigmoid(wishes)
        penalty, _ = lagrangian(costs_of(kept), step / STEPS)
        (task(kept) + penalty).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return [float(cost.detach()) for cost in costs_of(torch.sigmoid(wishes))]


WORTH = torch.linspace(0.01, 0.1, 10)


def loses(kept: Tensor) -> Tensor:
    return (WORTH * (1 - kept)).sum()


def test_one_cost_comes_to_its_target() -> None:
    (cost,) = settled([Bound("parameters", 4.0, 10.0)], lambda kept: [kept.sum()], loses)
    assert cost == pytest.approx(4.0, abs=0.1)


def test_a_target_is_pursued_from_below_too() -> None:
    """A task that wants to lose everything does not get its way either."""
    (cost,) = settled(
        [Bound("parameters", 4.0, 10.0)], lambda kept: [kept.sum()], lambda kept: 0.02 * kept.sum()
    )
    assert cost == pytest.approx(4.0, abs=0.1)


def test_several_bounds_hold_together() -> None:
    price = torch.linspace(2.0, 0.1, 10)

    def costs(kept: Tensor) -> list[Tensor]:
        return [kept.sum(), (price * kept).sum()]

    bounds = [Bound("parameters", 6.0, 10.0), Bound("ms", 0.3 * float(price.sum()), float(price.sum()))]
    found = settled(bounds, costs, loses)
    rooms = [bound.room(cost) for bound, cost in zip(bounds, found, strict=True)]
    assert min(rooms) == pytest.approx(0.0, abs=0.03)


def test_a_target_rises_and_is_told() -> None:
    lagrangian = Lagrangian([Bound("ms", 2.0, 8.0)], warm_up=0.5)
    assert [lagrangian.targets(at)[0] for at in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.375, 0.75, 0.75]
    with torch.no_grad():
        lagrangian.linear.fill_(2.0)
        lagrangian.quadratic.fill_(4.0)
    penalty, standing = lagrangian([torch.tensor(6.0)], 1.0)
    assert float(penalty.detach()) == pytest.approx(2.0 * 0.5 + 4.0 * 0.25)
    assert (standing.reached, standing.target) == (0.25, 0.75)
    assert (standing.linear, standing.quadratic) == (2.0, 4.0)
