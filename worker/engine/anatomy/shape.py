"""A shape: what is left of every layer. A recipe's structural steps, folded into their result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from models.spec import (
    HardAttention,
    PruneBlocks,
    PruneHeads,
    PruneLayers,
    PruneWeightGroups,
    Quantize,
    Recipe,
    Recover,
)


@dataclass(frozen=True)
class LayerShape:
    """What is left of one layer, by index in the dense model.

    `heads` is empty when the attention block is removed, `channels` when the FFN block is:
    of a removed block only the residual path and its layer norm remain. `present=False` skips the
    whole layer, norms included. `hard_top_k` keeps that many attention probabilities a row.
    """

    heads: tuple[int, ...]
    channels: tuple[int, ...]
    present: bool = True
    hard_top_k: int | None = None


@dataclass(frozen=True)
class Shape:
    """One `LayerShape` for every layer of the dense model, skipped ones included."""

    layers: tuple[LayerShape, ...]

    @staticmethod
    def full(layers: int, heads: int, channels: int) -> Shape:
        """The dense model's shape."""
        layer = LayerShape(tuple(range(heads)), tuple(range(channels)))
        return Shape((layer,) * layers)

    def with_layer(self, index: int, layer: LayerShape) -> Shape:
        return Shape((*self.layers[:index], layer, *self.layers[index + 1 :]))

    def applied(self, recipe: Recipe) -> Shape:
        """This shape after the structural steps of `recipe`; quantize and recover change none.

        Raises IndexError when a step names a layer that the model does not have.
        """
        shape = self
        for step in recipe.steps:
            match step:
                case PruneLayers():
                    for index in step.layers:
                        shape = shape.with_layer(index, replace(shape.layers[index], present=False))
                case PruneBlocks():
                    for block in step.blocks:
                        _, number, kind = block.split(".")
                        layer = shape.layers[int(number)]
                        emptied = replace(layer, heads=()) if kind == "attention" else replace(layer, channels=())
                        shape = shape.with_layer(int(number), emptied)
                case PruneHeads():
                    layer = shape.layers[step.layer]
                    kept = tuple(head for head in layer.heads if head not in set(step.heads))
                    shape = shape.with_layer(step.layer, replace(layer, heads=kept))
                case PruneWeightGroups():
                    layer = shape.layers[step.layer]
                    gone = set(step.channels)
                    kept = tuple(channel for channel in layer.channels if channel not in gone)
                    shape = shape.with_layer(step.layer, replace(layer, channels=kept))
                case HardAttention():
                    layer = replace(shape.layers[step.layer], hard_top_k=step.top_k)
                    shape = shape.with_layer(step.layer, layer)
                case Quantize() | Recover():
                    pass
        return shape
