"""Selective hard attention: each row keeps its largest probabilities (AxFormer, 2010.03688v2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from models.spec import HardAttention
from worker.engine.approximations.base import Named, Structural

if TYPE_CHECKING:
    from worker.engine.anatomy.shape import Shape


class SelectiveHardAttention(Structural[HardAttention]):
    """For accuracy only: all scores are worked out before the small ones are dropped."""

    name = "hard_attention"
    step = HardAttention
    changes_size = False
    changes_speed = False

    def named(self, step: HardAttention) -> Iterable[Named]:
        return [("layer", "layer", (step.layer,))]

    def narrowed(self, shape: Shape, step: HardAttention) -> Shape:
        layer = shape.layers[step.layer]
        # Keeping many of few changes nothing: of several steps the hardest counts.
        top_k = min(step.top_k, layer.hard_top_k or step.top_k)
        return shape.with_layer(step.layer, replace(layer, hard_top_k=top_k))
