"""How it is worked out what the task loses when an element goes."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator

from models.spec.base import Document

EstimatorName = Literal["ablation", "fisher", "taylor", "obs", "reconstruction"]
ESTIMATORS: tuple[EstimatorName, ...] = get_args(EstimatorName)


class SignificanceOptions(Document):
    """Which estimates are reported, which one the search goes by, and how sure a quick rejection must be."""

    estimators: tuple[EstimatorName, ...] = Field(
        ESTIMATORS, description="Reported beside exact ablation and Fisher, which always are; default: all."
    )
    drives: EstimatorName = Field(
        "fisher", description="What narrowing goes by: the least of it for what is saved goes first."
    )
    error_rate: float = Field(
        0.01,
        ge=0.0,
        lt=0.5,
        description="Chance, at most, that a change is given up early that all rows would have accepted.",
    )

    @field_validator("estimators")
    @classmethod
    def _no_repeats(cls, value: tuple[EstimatorName, ...]) -> tuple[EstimatorName, ...]:
        repeated = sorted({name for name in value if value.count(name) > 1})
        if repeated:
            raise ValueError(f"named twice: {', '.join(repeated)}")
        return value
