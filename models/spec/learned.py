"""How masks are trained, for the strategies that learn what to remove."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from models.spec.base import Document

BoundedCost = Literal["parameters", "flops", "latency"]
BOUNDED_COSTS: tuple[BoundedCost, ...] = get_args(BoundedCost)


class LearnedOptions(Document):
    """Training of masks with the information bottleneck (strategies vtrans, fast-vtrans, faster-vtrans).

    What must go follows from `constraints.speed` and `constraints.size`; `target` asks for more, or for
    something else, such as a part of the computation. All of these hold together.
    """

    constraint: BoundedCost = Field(
        "parameters",
        description="What `target` is a part of: the parameters, the multiply-accumulates of one example "
        "(flops), or the milliseconds of a call on the target by the latency table, in the precision that "
        "is delivered.",
    )
    target: float | None = Field(
        None, gt=0.0, lt=1.0, description="The part of it that goes (the sparsity); default: no such bound."
    )
    data_fraction: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Part of the training rows that masks are trained on; default: 1 with vtrans, 0.03 with "
        "fast-vtrans and faster-vtrans.",
    )
    epochs: int | None = Field(None, ge=1, le=1000, description="At most; default by data size.")
    batch_size: int = Field(32, ge=1, le=4096)
    learning_rate: float | None = Field(
        None, gt=0.0, lt=1.0, description="Peak, of the weights; default by the model's width."
    )
    mask_learning_rate: float = Field(0.05, gt=0.0, lt=10.0, description="Of the masks.")
    multiplier_learning_rate: float = Field(
        0.1, gt=0.0, lt=100.0, description="Of the Lagrangian multipliers, which climb."
    )
    kl_weight: float = Field(
        1e-6, ge=0.0, le=1.0, description="Weight of the Kullback-Leibler divergence of the masks."
    )
    warm_up: float = Field(
        0.3, ge=0.0, le=0.9, description="Part of the steps in which the target rises from nothing."
    )
