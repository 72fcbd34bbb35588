"""Augmented Lagrangian: multipliers that climb until the expected costs are what is asked.

As CoFi (Xia et al. 2022, section 3.2) and VTrans have it: lambda1 (t - s) + lambda2 (t - s)^2, where s is
the expected sparsity (the part of a cost that goes) and t the target, which rises from nothing over the first
part of the steps; masks go down that sum's gradient and multipliers, which begin at 0, up.

Ours: the second multiplier climbs ten times as fast, since in hundreds of steps the first, which goes on
pushing for a while when the target is reached, would overshoot it. And several bounds at once: each has
multipliers of its own. The one that is missed most is pursued from both sides, like a single one; the others
count only as far as they are missed, so that a bound that is easily met does not hold back what another asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worker.engine.learned.expected_cost import Bound

QUADRATIC_FASTER = 10.0


@dataclass(frozen=True)
class Standing:
    """How things stand with the bound that is missed most: sparsity `reached` of `target` (of the moment)."""

    cost: str
    reached: float
    target: float
    linear: float
    quadratic: float


class Lagrangian(nn.Module):
    """Over `bounds`, at least one; `warm_up` is the part of the steps in which targets rise."""

    def __init__(self, bounds: Sequence[Bound], warm_up: float) -> None:
        super().__init__()
        self.bounds, self.warm_up = tuple(bounds), warm_up
        self.linear = nn.Parameter(torch.zeros(len(self.bounds)))
        self.quadratic = nn.Parameter(torch.zeros(len(self.bounds)))

    def targets(self, progress: float) -> list[float]:
        """The sparsity to have reached when that part of the steps is done."""
        risen = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        return [max(0.0, bound.reduction) * risen for bound in self.bounds]

    def forward(self, costs: Sequence[Tensor], progress: float) -> tuple[Tensor, Standing]:
        """The penalty for expected costs (scalars, as many as bounds), and how things stand."""
        wholes = [bound.whole for bound in self.bounds]
        reached = torch.stack([1.0 - cost / whole for cost, whole in zip(costs, wholes, strict=True)])
        targets = self.targets(progress)
        gaps = reached.new_tensor(targets) - reached
        worst = int(gaps.argmax())
        pursued = torch.zeros_like(gaps, dtype=torch.bool)
        pursued[worst] = True
        counted = torch.where(pursued, gaps, gaps.clamp_min(0.0))
        penalty = (self.linear * counted + self.quadratic * counted.square()).sum()
        standing = Standing(
            self.bounds[worst].cost,
            float(reached[worst].detach()),
            targets[worst],
            float(self.linear[worst].detach()),
            float(self.quadratic[worst].detach()),
        )
        return penalty, standing


def climber(lagrangian: Lagrangian, learning_rate: float) -> torch.optim.Optimizer:
    """What moves the multipliers: upwards, the first ones by about `learning_rate` a step."""
    groups: list[dict[str, Any]] = [
        {"params": [lagrangian.linear], "factor": 1.0},
        {"params": [lagrangian.quadratic], "factor": QUADRATIC_FASTER},
    ]
    for group in groups:
        group["lr"] = learning_rate * group["factor"]
    return torch.optim.Adam(groups, maximize=True)
