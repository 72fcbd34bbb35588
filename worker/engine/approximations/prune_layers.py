"""Skip whole layers: the output is the input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from models.spec import PruneLayers
from worker.engine.approximations.base import Named, Structural

if TYPE_CHECKING:
    from worker.engine.anatomy.shape import Shape


class LayerPruning(Structural[PruneLayers]):
    name = "prune_layers"
    step = PruneLayers
    changes_size = True
    changes_speed = True

    def named(self, step: PruneLayers) -> Iterable[Named]:
        return [("layers", "layer", step.layers)]

    def narrowed(self, shape: Shape, step: PruneLayers) -> Shape:
        for index in step.layers:
            shape = shape.with_layer(index, replace(shape.layers[index], present=False))
        return shape
