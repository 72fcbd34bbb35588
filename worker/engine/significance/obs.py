"""Structured optimal brain surgeon: what a block's output loses when columns go and others make up for it.

ZipLM (Kurtic et al. 2023): with the Hessian H = E[x x^T] of a projection's squared output
error, its weight W, and the columns S of a structure, removing S costs tr(W_S ((H^-1)_SS)^-1 W_S^T) when the
other columns are changed by -W_S ((H^-1)_SS)^-1 (H^-1)_S, which is the least-squares solution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.engine.significance.base import Estimator, Material
from worker.engine.significance.elements import Element
from worker.engine.significance.projections import OutputProjection, OutputProjections, output_projections


@dataclass(frozen=True)
class BrainSurgery:
    """Squared output errors a token, each after the optimal update of what stays."""

    projections: OutputProjections
    channels: int

    def of(self, element: Element) -> float:
        """Of a whole block, of which nothing stays, its mean squared output; of a layer both blocks'."""
        return sum(
            removal_error(self.projections[key], units) for key, units in self.projections.units(element)
        )

    def channel_scores(self, layer: int) -> np.ndarray:
        return channel_errors(self.projections[layer, "ffn"], self.channels)

    def hidden_scores(self) -> None:
        """Hidden dimensions are no columns of an output projection."""


class OptimalBrainSurgeon(Estimator):
    name = "obs"
    source = "Kurtic et al. 2023 (ZipLM)"
    measures = "mean squared change of the block's output, after the optimal update of what stays"
    knows_hidden = False

    def weigh(self, material: Material) -> BrainSurgery:
        return BrainSurgery(output_projections(material), material.anatomy.channels)


def removal_error(projection: OutputProjection, units: tuple[int, ...]) -> float:
    """Mean squared error of the output a token when `units` are removed and the others updated."""
    if len(units) == len(projection.units):
        weight = projection.weight
        return float(torch.sum((weight @ projection.moments) * weight))
    gone = projection.columns(units)
    weight = projection.weight[:, gone]
    return float(torch.sum(torch.linalg.solve(projection.inverse[gone][:, gone], weight.T) * weight.T))


def removal_update(projection: OutputProjection, units: tuple[int, ...]) -> Tensor:
    """The weight, (outputs, columns), after `units` are removed (zeros) and the other columns updated."""
    gone = projection.columns(units)
    inverse = projection.inverse
    updated: Tensor = projection.weight - projection.weight[:, gone] @ torch.linalg.solve(
        inverse[gone][:, gone], inverse[gone]
    )
    updated[:, gone] = 0.0
    return updated


def channel_errors(projection: OutputProjection, channels: int) -> np.ndarray:
    """`removal_error` of every single channel, (channels,) by dense index; 0 for those that are gone."""
    errors = np.zeros(channels)
    each = projection.weight.square().sum(0) / projection.inverse.diagonal()
    errors[list(projection.units)] = each.numpy()
    return errors
