"""Selective hard attention: each row keeps its largest probabilities (AxFormer, 2010.03688v2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from models.spec import HardAttention
from worker.engine.approximations.base import Named, Structural
from worker.engine.approximations.sparse_heads import made_sparse

if TYPE_CHECKING:
    from worker.engine.anatomy.shape import Shape


class SelectiveHardAttention(Structural[HardAttention]):
    """For accuracy only: all scores are worked out before the small ones are dropped."""

    name = "hard_attention"
    step = HardAttention
    changes_size = False
    changes_speed = False

    def named(self, step: HardAttention) -> Iterable[Named]:
        return [("layer", "layer", (step.layer,)), ("heads", "head", step.heads or ())]

    def narrowed(self, shape: Shape, step: HardAttention) -> Shape:
        layer = shape.layers[step.layer]
        heads = layer.heads if step.heads is None else step.heads
        sparse = made_sparse(layer.sparse, heads, "hard", step.top_k)
        return shape.with_layer(step.layer, replace(layer, sparse=sparse))
