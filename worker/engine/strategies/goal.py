"""What a candidate costs, and how far that is from what the constraints ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal

from models.spec import Constraints, Focus
from worker.engine.anatomy.shape import Shape

Resource = Literal["ms", "bytes"]
LEAST_FILE = 0.002  # of the whole model's bytes, that any model's file is predicted to take
MARGIN = 0.1  # predicted times must beat their bound by this part: the table errs by about as much


@dataclass(frozen=True)
class Costs:
    """Predicted milliseconds a call on the target, and bytes of the exported model file."""

    ms: float
    bytes: float

    def of(self, resource: Resource) -> float:
        return self.ms if resource == "ms" else self.bytes


@dataclass(frozen=True)
class DenseReference:
    """The dense fp32 model as measured in the target's runtime: what ratios are taken against."""

    ms: float
    bytes: float
    batch_size: int


@dataclass(frozen=True)
class CostModel:
    """Costs of a shape in the precision that will be delivered.

    `milliseconds` comes from the latency table. Bytes are the measured file of the whole model in the
    delivered precision, less `bytes_per_parameter` for every parameter that the shape lacks, and less
    `other_bytes`: what else of the file goes with these (scales, nodes, what vectors take beyond that).
    """

    milliseconds: Callable[[Shape], float]
    parameters: Callable[[Shape], int]
    whole_bytes: float
    whole_parameters: int
    bytes_per_parameter: float
    other_bytes: Callable[[Shape], float] = lambda shape: 0.0

    def __call__(self, shape: Shape) -> Costs:
        removed = self.bytes_per_parameter * (self.whole_parameters - self.parameters(shape))
        left = self.whole_bytes - removed - self.other_bytes(shape)
        return Costs(self.milliseconds(shape), max(left, LEAST_FILE * self.whole_bytes))


@dataclass(frozen=True)
class Goal:
    """Upper bounds on costs. `None` leaves a resource free."""

    ms: float | None = None
    bytes: float | None = None

    @staticmethod
    def of(constraints: Constraints, dense: DenseReference, *, margin: float) -> Goal:
        """The bounds that meet the speed and size constraints, tightened by `margin` (0.1: by 10 %).

        Bytes are predicted far better than times, and tightened by a tenth of that.
        """
        speed, size = constraints.speed, constraints.size
        ms = [
            bound
            for bound in (
                dense.ms / speed.min_speedup if speed.min_speedup else None,
                speed.max_latency_ms,
                1e3 * dense.batch_size / speed.min_throughput if speed.min_throughput else None,
            )
            if bound is not None
        ]
        file_bytes = [
            bound
            for bound in (
                dense.bytes / size.min_reduction if size.min_reduction else None,
                float(size.max_bytes) if size.max_bytes else None,
            )
            if bound is not None
        ]
        return Goal(
            ms=min(ms) / (1 + margin) if ms else None,
            bytes=min(file_bytes) / (1 + margin / 10) if file_bytes else None,
        )

    def bound(self, resource: Resource) -> float | None:
        return self.ms if resource == "ms" else self.bytes

    def met(self, costs: Costs) -> bool:
        """Whether every bound holds."""
        return not self.missing(costs)

    def missing(self, costs: Costs) -> dict[Resource, float]:
        """How much is still to be saved of each resource whose bound does not hold."""
        excess: dict[Resource, float] = {}
        resources: tuple[Resource, ...] = ("ms", "bytes")
        for resource in resources:
            bound = self.bound(resource)
            if bound is not None and costs.of(resource) > bound:
                excess[resource] = costs.of(resource) - bound
        return excess

    def progress(self, before: Costs, after: Costs) -> float:
        """Which part of what is missing the change saves, summed over the unmet resources.

        1.0 means that one unmet bound is reached by this change alone; savings past a bound do not count.
        """
        return sum(
            min(1.0, (before.of(resource) - after.of(resource)) / missing)
            for resource, missing in self.missing(before).items()
        )

    def told(self, costs: Costs) -> str:
        """How the costs stand to the bounds, for people."""
        missing = self.missing(costs)
        if not missing:
            return "bounds hold"
        told = {
            "ms": f"{costs.ms:.3f} ms where {self.ms or 0.0:.3f} are allowed",
            "bytes": f"{costs.bytes / 1e6:.2f} MB where {(self.bytes or 0.0) / 1e6:.2f} are allowed",
        }
        return "still " + " and ".join(told[resource] for resource in missing)


def pushed(goal: Goal, costs: Costs, focus: Focus, part: float) -> Goal:
    """`goal` with the bound that takes a model of `costs` to `part` of them, of what the focus is on.

    Balanced focus shares the way between milliseconds and bytes: each to the root of `part`.
    """
    if focus == "balanced":
        return replace(goal, ms=costs.ms * sqrt(part), bytes=costs.bytes * sqrt(part))
    if focus == "speed":
        return replace(goal, ms=costs.ms * part)
    return replace(goal, bytes=costs.bytes * part)
