"""significance.json: what every element is worth to the task, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from worker.engine.anatomy import Anatomy, Shape
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
    base_losses: np.ndarray,
    without: Mapping[str, float],
    fisher: FisherInformation,
    costs: CostModel,
    *,
    length: int,
) -> dict[str, Any]:
    """What every layer, block, head and weight group of the dense model weighs.

    `base_losses` are the dense model's per-sample losses, (rows,), `without` the mean loss on the same
    rows without each element, by its id. Each element of the report has its exact `loss_change` and its
    `fisher` estimate, the `parameters`, `macs` (one example of `length` tokens), `bytes` and
    `milliseconds` that its removal saves on the target. `rank_agreement` is Spearman's correlation of the
    two significances, by kind of element.
    """
    shape = anatomy.full_shape()
    base = float(np.mean(base_losses))
    rows = [
        {
            "id": element.id,
            "kind": element.kind,
            "layer": element.layer,
            "channels": len(element.channels) or None,
            "loss_change": without[element.id] - base,
            "fisher": fisher.of(element),
            **_savings(anatomy, shape, element, costs, length),
        }
        for element in all_elements(shape)
    ]
    return {
        "base_loss": base,
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
