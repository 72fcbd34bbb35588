"""Exact ablation: the loss that the task has when the element is gone, measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from worker.engine.anatomy.shape import Shape
from worker.engine.significance.elements import Element


def exact_ablation(
    elements: Sequence[Element],
    shape: Shape,
    losses_of: Callable[[Shape], np.ndarray],
    *,
    told: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Mean loss change of each element's removal from `shape` (AxFormer; METHODS: one element at a time).

    `losses_of` answers the per-sample losses, shape (rows,), of the model masked to a shape. Positive
    means that the task needs the element; negative, that it does better without it.
    `told` hears how many elements are done.
    """
    base = float(np.mean(losses_of(shape)))
    without = losses_without(elements, shape, losses_of, told=told)
    return {name: loss - base for name, loss in without.items()}


def losses_without(
    elements: Sequence[Element],
    shape: Shape,
    losses_of: Callable[[Shape], np.ndarray],
    *,
    told: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Mean loss of the model masked to `shape` without each of the elements, by their ids.

    Each is worked out by itself: what it is does not depend on the others, nor on their order.
    """
    means: dict[str, float] = {}
    for done, element in enumerate(elements, start=1):
        means[element.id] = float(np.mean(losses_of(element.removed_from(shape))))
        told(done)
    return means
