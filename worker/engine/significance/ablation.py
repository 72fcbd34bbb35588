"""Exact ablation: the loss that the task has when the element is gone, measured."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from worker.engine.significance.base import Estimator, Material
from worker.engine.significance.elements import Element
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
            without = self._replay.losses(element.removed_from(self._material.shape))
            self._known[element] = float(np.mean(without)) - self._base
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
