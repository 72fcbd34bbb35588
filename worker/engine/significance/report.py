"""significance.json: what every element is worth to the task, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from worker.engine.anatomy import Anatomy, Shape
from worker.engine.significance.ablation import exact_ablation
from worker.engine.significance.elements import (
    Element,
    block_elements,
    group_elements,
    group_size,
    head_elements,
    layer_elements,
)
from worker.engine.significance.fisher import FisherInformation
from worker.engine.strategies.goal import CostModel


def significance_report(
    anatomy: Anatomy,
    losses_of: Callable[[Shape], np.ndarray],
    fisher: FisherInformation,
    costs: CostModel,
    *,
    length: int,
    told: Callable[[int, int], None],
) -> dict[str, Any]:
    """Weigh every layer, block, head and weight group of the dense model.

    `losses_of` gives per-sample losses, (rows,), under a shape. Each element of the report has its exact
    `loss_change` and its `fisher` estimate, the `parameters`, `macs` (one example of `length` tokens),
    `bytes` and `milliseconds` that its removal saves on the target. `rank_agreement` is Spearman's
    correlation of the two significances, by kind of element.
    """
    shape = anatomy.full_shape()
    elements = all_elements(shape)
    changes = exact_ablation(elements, shape, losses_of, told=lambda done: told(done, len(elements)))
    base_losses = losses_of(shape)
    rows = [
        {
            "id": element.id,
            "kind": element.kind,
            "layer": element.layer,
            "channels": len(element.channels) or None,
            "loss_change": changes[element.id],
            "fisher": fisher.of(element),
            **_savings(anatomy, shape, element, costs, length),
        }
        for element in elements
    ]
    return {
        "base_loss": float(np.mean(base_losses)),
        "rows": len(base_losses),
        "rank_agreement": _rank_agreement(rows),
        "elements": rows,
    }


def all_elements(shape: Shape) -> list[Element]:
    """Coarse before fine: layers, blocks, then heads and contiguous weight groups of every layer."""
    fine = [
        element
        for index, layer in enumerate(shape.layers)
        if layer.present
        for element in (
            *head_elements(shape, index),
            *group_elements(shape, index, group_size(len(layer.channels))),
        )
    ]
    return [*layer_elements(shape), *block_elements(shape), *fine]


def _savings(
    anatomy: Anatomy, shape: Shape, element: Element, costs: CostModel, length: int
) -> dict[str, float]:
    without = element.removed_from(shape)
    before, after = costs(shape), costs(without)
    return {
        "parameters": anatomy.parameters(shape) - anatomy.parameters(without),
        "macs": anatomy.macs(shape, length) - anatomy.macs(without, length),
        "bytes": round(before.bytes - after.bytes),
        "milliseconds": before.ms - after.ms,
    }


def _rank_agreement(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Spearman's rho of loss change and Fisher by kind; None where one of them does not vary."""
    agreement: dict[str, float | None] = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        exact = np.array([row["loss_change"] for row in rows if row["kind"] == kind])
        estimate = np.array([row["fisher"] for row in rows if row["kind"] == kind])
        varies = len(exact) > 2 and np.ptp(exact) > 0 and np.ptp(estimate) > 0
        agreement[kind] = float(spearmanr(exact, estimate).statistic) if varies else None
    return agreement
