"""Remove attention heads of a layer: their context is zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from models.spec import PruneHeads
from worker.engine.approximations.base import Named, Structural

if TYPE_CHECKING:
    from worker.engine.anatomy.shape import Shape


class HeadPruning(Structural[PruneHeads]):
    name = "prune_heads"
    step = PruneHeads
    changes_size = True
    changes_speed = True

    def named(self, step: PruneHeads) -> Iterable[Named]:
        return [("layer", "layer", (step.layer,)), ("heads", "head", step.heads)]

    def narrowed(self, shape: Shape, step: PruneHeads) -> Shape:
        layer, gone = shape.layers[step.layer], set(step.heads)
        kept = tuple(head for head in layer.heads if head not in gone)
        return shape.with_layer(step.layer, replace(layer, heads=kept))
