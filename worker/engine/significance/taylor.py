"""Taylor expansion: the loss change that the gradient alone predicts when an element's gates close."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.engine.significance.base import Estimator, Material
from worker.engine.significance.elements import Element
from worker.engine.significance.fisher import Fisher, FisherInformation


@dataclass(frozen=True)
class TaylorExpansion:
    """First-order estimates from per-row gradients of gates, which are gradient times activation, |g z|."""

    gradients: FisherInformation

    def of(self, element: Element) -> float:
        """mean_s |sum_i g_si| over the element's gates (Michel et al. 2019; Molchanov et al. 2017).

        At a minimum of the loss signed gradients cancel over the rows; their magnitudes tell what moves.
        """
        return float(np.mean(np.abs(self.gradients.along(element))))

    def signed(self, element: Element) -> float:
        """The loss change itself to first order, -mean_s sum_i g_si: gates go from 1 to 0."""
        return float(-np.mean(self.gradients.along(element)))

    def channel_scores(self, layer: int) -> np.ndarray:
        scores: np.ndarray = np.mean(np.abs(self.gradients.by_channel(layer)), axis=0)
        return scores

    def hidden_scores(self) -> np.ndarray:
        scores: np.ndarray = np.mean(np.abs(self.gradients.by_dimension), axis=0)
        return scores


class Taylor(Estimator):
    name = "taylor"
    source = "Michel et al. 2019; Molchanov et al. 2017"
    measures = "mean magnitude of the first-order loss change of a row"

    def weigh(self, material: Material) -> TaylorExpansion:
        return TaylorExpansion(Fisher().weigh(material))
