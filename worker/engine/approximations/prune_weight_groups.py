"""Remove FFN channels of a layer; the block's output bias stays while any channel does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from models.spec import PruneWeightGroups
from worker.engine.approximations.base import Named, Structural

if TYPE_CHECKING:
    from worker.engine.anatomy.shape import Shape


class WeightGroupPruning(Structural[PruneWeightGroups]):
    name = "prune_weight_groups"
    step = PruneWeightGroups
    changes_size = True
    changes_speed = True

    def named(self, step: PruneWeightGroups) -> Iterable[Named]:
        return [("layer", "layer", (step.layer,)), ("channels", "channel", step.channels)]

    def narrowed(self, shape: Shape, step: PruneWeightGroups) -> Shape:
        layer, gone = shape.layers[step.layer], set(step.channels)
        kept = tuple(channel for channel in layer.channels if channel not in gone)
        return shape.with_layer(step.layer, replace(layer, channels=kept))
