"""What significance.json says of attention that reads a few tokens only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.engine.anatomy.shape import Shape
from worker.engine.significance.report import Ablated
from worker.engine.significance.sparse_elements import APPROXIMATION_OF, SparseElement
from worker.engine.strategies.goal import CostModel


def sparse_report(
    shape: Shape,
    elements: Sequence[SparseElement],
    base_loss: float,
    without: Mapping[str, Ablated],
    costs: CostModel,
) -> list[dict[str, Any]]:
    """What each element changes of the loss, and what it saves on the target.

    `without` is what was measured with each, by its id. It costs time where `milliseconds` is below 0.
    """
    before = costs(shape).ms
    return [
        {
            "id": element.id,
            "approximation": APPROXIMATION_OF[element.kind],
            "kind": element.kind,
            "layer": element.layer,
            "head": element.head,
            "top_k": element.top_k,
            "loss_change": without[element.id].loss - base_loss,
            "standard_error": without[element.id].standard_error,
            "milliseconds": before - costs(element.removed_from(shape)).ms,
        }
        for element in elements
    ]
