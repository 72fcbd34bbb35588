"""significance.json: what every element is worth to the task, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.spec import EstimatorName, GroupSizes
from worker.engine.anatomy import Anatomy, Shape
from worker.engine.significance.agreement import agreement_by_kind, reliability_by_kind
from worker.engine.significance.base import Estimator, Material
from worker.engine.significance.elements import (
    Element,
    block_elements,
    group_elements,
    group_size,
    head_elements,
    hidden_elements,
    layer_elements,
)
from worker.engine.significance.registry import ESTIMATORS
from worker.engine.strategies.goal import CostModel


@dataclass(frozen=True)
class Cost:
    """What an estimate of all elements took: seconds, token-layers (see `Tally`), and on how many rows."""

    seconds: float
    token_layers: int
    rows: int


@dataclass(frozen=True)
class Ablated:
    """The dense model's loss without an element: the mean over some rows, and the standard error of how far
    it is from that of the whole model on the same rows."""

    loss: float
    standard_error: float

    @staticmethod
    def of(losses: NDArray[np.float32], base_losses: NDArray[np.float32]) -> Ablated:
        """From the losses of at least two rows, (rows,), without it and of the whole model."""
        changes = losses.astype(np.float64) - base_losses
        return Ablated(float(np.mean(losses)), float(np.std(changes, ddof=1) / np.sqrt(len(changes))))


@dataclass(frozen=True)
class Estimate:
    """What an estimator says of the dense model's elements, by their ids."""

    values: Mapping[str, float]
    cost: Cost

    @staticmethod
    def by(estimator: Estimator, material: Material, elements: Sequence[Element]) -> Estimate:
        """Of those of the elements whose kind the estimator knows, and what that took."""
        began = time.perf_counter()
        weights = estimator.weigh(material)
        known = [each for each in elements if estimator.knows_hidden or each.kind != "hidden_group"]
        values = {element.id: weights.of(element) for element in known}
        seconds = time.perf_counter() - began
        return Estimate(values, Cost(seconds, material.tally.token_layers, len(material.rows)))


def significance_report(
    anatomy: Anatomy,
    base_losses: NDArray[np.float32],
    without: Mapping[str, Ablated],
    estimates: Mapping[EstimatorName, Estimate],
    costs: CostModel,
    *,
    ablation: Cost,
    length: int,
    elements: Sequence[Element],
) -> dict[str, Any]:
    """What every one of `elements` weighs in the dense model.

    `base_losses` are the dense model's per-sample losses, (rows,), `without` what was measured on the same
    rows without each element, by its id; `ablation` is what these took. Each element of the report has
    its exact `loss_change` and the `standard_error` of that, its `fisher` estimate, all `estimates` (None of
    those that do not know its kind), and the `parameters`, `macs` (one example of `length` tokens), `bytes`
    and `milliseconds` that its removal saves on the target; `channels` counts a weight group's channels, or
    a hidden group's dimensions. `estimators` tells of each where it is from, what it took and how far its
    order agrees with the exact one, by kind of element; `rank_agreement` is Fisher's Spearman correlation,
    and `reliability` how far the exact order itself stands, by kind.
    """
    shape = anatomy.full_shape()
    base = float(np.mean(base_losses))
    rows = [
        {
            "id": element.id,
            "kind": element.kind,
            "layer": None if element.kind == "hidden_group" else element.layer,
            "channels": len(element.channels) or None,
            "loss_change": without[element.id].loss - base,
            "standard_error": without[element.id].standard_error,
            "fisher": estimates["fisher"].values[element.id],
            "estimates": {name: estimate.values.get(element.id) for name, estimate in estimates.items()},
            **_savings(anatomy, shape, element, costs, length),
        }
        for element in elements
    ]
    estimators = {"ablation": _told("ablation", ablation)}
    for name, estimate in estimates.items():
        estimators[name] = {**_told(name, estimate.cost), "agreement": _agreement(rows, name)}
    by_fisher = estimators["fisher"]["agreement"].items()
    return {
        "base_loss": base,
        "rows": len(base_losses),
        "reliability": _reliability(rows),
        "rank_agreement": {kind: each["spearman"] for kind, each in by_fisher if kind != "all"},
        "estimators": estimators,
        "elements": rows,
    }


def all_elements(shape: Shape, width: int = 0, sizes: GroupSizes | None = None) -> list[Element]:
    """Coarse before fine: layers, blocks, then heads and contiguous weight groups of every layer.

    Then the hidden groups of a dense `width`; none where that is not given.
    """
    sizes = sizes or GroupSizes()
    fine = [
        element
        for index, layer in enumerate(shape.layers)
        if layer.present
        for element in (
            *head_elements(shape, index),
            *group_elements(shape, index, group_size(len(layer.channels), sizes.ffn)),
        )
    ]
    hidden = hidden_elements(shape, width, group_size(width, sizes.hidden)) if width else []
    return [*layer_elements(shape), *block_elements(shape), *fine, *hidden]


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


def _told(name: EstimatorName, cost: Cost) -> dict[str, Any]:
    estimator = ESTIMATORS[name]
    return {"source": estimator.source, "measures": estimator.measures, **vars(cost)}


def _reliability(rows: list[dict[str, Any]]) -> Mapping[str, float | None]:
    columns = ([row[name] for row in rows] for name in ("kind", "loss_change", "standard_error"))
    return reliability_by_kind(*columns)


def _agreement(rows: list[dict[str, Any]], name: str) -> Mapping[str, dict[str, float | None]]:
    known = [row for row in rows if row["estimates"][name] is not None]
    kinds, exact = [row["kind"] for row in known], [row["loss_change"] for row in known]
    return agreement_by_kind(kinds, exact, [row["estimates"][name] for row in known])
