"""Remove attention or FFN blocks: LayerNorm(input) remains (AxFormer, arXiv 2010.03688v2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from models.spec import PruneBlocks
from worker.engine.approximations.base import Named, Structural

if TYPE_CHECKING:
    from worker.engine.anatomy.shape import Shape


class BlockPruning(Structural[PruneBlocks]):
    name = "prune_blocks"
    step = PruneBlocks
    changes_size = True
    changes_speed = True

    def named(self, step: PruneBlocks) -> Iterable[Named]:
        return [("blocks", "layer", tuple(_parsed(block)[0] for block in step.blocks))]

    def narrowed(self, shape: Shape, step: PruneBlocks) -> Shape:
        for block in step.blocks:
            index, kind = _parsed(block)
            layer = shape.layers[index]
            left = replace(layer, heads=()) if kind == "attention" else replace(layer, channels=())
            shape = shape.with_layer(index, left)
        return shape


def _parsed(block: str) -> tuple[int, str]:
    _, index, kind = block.split(".")
    return int(index), kind
