"""Exact ablation: the loss that the task has when the element is gone, measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from worker.engine.anatomy.shape import Shape
from worker.engine.significance.base import Estimator, Material
from worker.engine.significance.elements import Element, Weighed
from worker.engine.significance.fisher import Fisher, FisherInformation
from worker.engine.significance.prefix import PrefixReplay


class Ablations:
    """Measured loss changes, each worked out when it is first asked for."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._replay = PrefixReplay(
            material.anatomy,
            material.rows,
            material.task,
            material.device,
            precision=material.precision,
            base=material.shape,
            tally=material.tally,
        )
        self._base = float(np.mean(self._replay.losses(material.shape)))
        self._known: dict[Element, float] = {}

    def of(self, element: Element) -> float:
        if element not in self._known:
            without = losses_without([element], self._material.shape, self._replay.losses)
            self._known[element] = without[element.id] - self._base
        return self._known[element]

    def channel_scores(self, layer: int) -> np.ndarray:
        """By Fisher information: to remove channels one by one would take as many passes as there are."""
        return self._by_fisher.channel_scores(layer)

    def hidden_scores(self) -> np.ndarray:
        """By Fisher information, too."""
        return self._by_fisher.hidden_scores()

    @cached_property
    def _by_fisher(self) -> FisherInformation:
        return Fisher().weigh(self._material)


class Ablation(Estimator):
    name = "ablation"
    source = "AxFormer (arXiv 2010.03688): one element at a time"
    measures = "change of the mean loss, measured"

    def weigh(self, material: Material) -> Ablations:
        return Ablations(material)


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
    elements: Sequence[Weighed],
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
