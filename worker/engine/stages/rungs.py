"""Rungs: recovered recipes as their delivered files measured, and which of them is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.spec import AccuracyConstraint, Focus, Recipe
from worker.engine.measure.verdict import allowed_drop

MAX_RUNGS = 6
COMFORT = 0.5  # of the loss of metric that is allowed: a rung that pushes on spends no more of it


@dataclass(frozen=True)
class Rung:
    """A recovered recipe as its delivered file measured. `violations`: by how much, relatively, the
    constraints are missed on the selection split; empty when all hold. `comfortable`: whether accuracy
    holds with room for what the selection split cannot tell about the holdout."""

    number: int
    recipe: Recipe
    metric: float
    speedup: float
    ms: float
    size_bytes: int
    violations: dict[str, float]
    comfortable: bool
    training_seconds: float
    measuring_seconds: float

    @staticmethod
    def from_json(document: dict[str, Any]) -> Rung:
        return Rung(**{**document, "recipe": Recipe.model_validate(document["recipe"])})

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "recipe": self.recipe.model_dump(mode="json")}

    @property
    def too_costly(self) -> bool:
        """Whether a speed or size constraint is missed."""
        return any(not name.startswith("accuracy.") for name in self.violations)


def best_of(rungs: Sequence[Rung], focus: Focus) -> Rung:
    """The rung to deliver.

    Of those that hold all constraints and are comfortable, the one furthest in the focus; without any, the
    most accurate that holds all constraints; else the nearest miss. Speed and size beyond what was asked
    are worth no risk of missing the accuracy that was.
    """

    def preference(rung: Rung) -> tuple[float, ...]:
        towards = {
            "speed": rung.speedup,
            "size": -float(rung.size_bytes),
            "balanced": rung.speedup / rung.size_bytes,  # a part less of one is worth as much of the other
            "accuracy": rung.metric,
        }
        gained = towards[focus] if rung.comfortable else rung.metric
        return -sum(rung.violations.values()), rung.comfortable, gained, -float(rung.size_bytes)

    return max(rungs, key=preference)


def has_room(accuracy: AccuracyConstraint, dense: float, metric: float) -> bool:
    """Whether half of what the metric may lose against `dense` is left. Both are scores: more is better.

    A confidence level keeps a distance of its own, so that any metric has room there.
    """
    if accuracy.confidence != "point":
        return True
    allowed = allowed_drop(accuracy, dense)
    return metric >= dense - (allowed if allowed <= 0 else (1 - COMFORT) * allowed)
