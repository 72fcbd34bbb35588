"""Elements: the parts of a transformer that are weighed, and removed, on their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from models.spec import PruneBlocks, PruneHeads, PruneHidden, PruneLayers, PruneWeightGroups, Step
from models.spec.ranges import as_ranges
from worker.engine.anatomy.shape import LayerShape, Shape

Kind = Literal["layer", "attention", "ffn", "head", "group", "hidden_group"]
ALL_LAYERS = -1  # the layer of what belongs to none
ALIGNMENT = 32
"""Group sizes are multiples of it where they are that large: of the 16 floats of a vector register, of the
tiles of tensor cores, and of int4's blocks."""
GROUPS_PER_BLOCK = 12  # the authors' code cuts an FFN of 3,072 channels into 12 groups of 256


class Weighed(Protocol):
    """Anything that can be taken from a shape, and has a name."""

    @property
    def id(self) -> str: ...

    def removed_from(self, shape: Shape) -> Shape: ...


@dataclass(frozen=True)
class Element:
    """A layer, a block, a head, or a weight group of FFN channels, by index in the dense model.

    Or a hidden group: dimensions of the residual stream, which belong to `ALL_LAYERS`; `channels` are these.
    Where layers share weights, all but the layer itself stands for that of every layer that has them.
    """

    kind: Kind
    layer: int
    number: int = 0
    channels: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """Stable name, such as `layer.3.attention.head.5` or `layer.0.ffn.group.2`."""
        return {
            "layer": f"layer.{self.layer}",
            "attention": f"layer.{self.layer}.attention",
            "ffn": f"layer.{self.layer}.ffn",
            "head": f"layer.{self.layer}.attention.head.{self.number}",
            "group": f"layer.{self.layer}.ffn.group.{self.number}",
            "hidden_group": f"hidden.group.{self.number}",
        }[self.kind]

    def removed_from(self, shape: Shape) -> Shape:
        """`shape` without this element."""
        if self.kind == "hidden_group":
            return replace(shape, hidden_gone=tuple(sorted({*shape.hidden_gone, *self.channels})))
        return shape.with_layer(self.layer, self._without(shape.layers[self.layer]))

    def step(self) -> Step:
        """The recipe step that removes this element."""
        match self.kind:
            case "layer":
                return PruneLayers(layers=(self.layer,))
            case "attention" | "ffn":
                return PruneBlocks(blocks=(self.id,))
            case "head":
                return PruneHeads(layer=self.layer, heads=(self.number,))
            case "group":
                return PruneWeightGroups(layer=self.layer, channels=self.channels)
            case "hidden_group":
                return PruneHidden(dimensions=as_ranges(self.channels))

    def _without(self, layer: LayerShape) -> LayerShape:
        match self.kind:
            case "layer":
                return replace(layer, present=False)
            case "attention":
                return replace(layer, heads=())
            case "ffn":
                return replace(layer, channels=())
            case "head":
                return replace(layer, heads=tuple(head for head in layer.heads if head != self.number))
            case "group":
                gone = set(self.channels)
                return replace(layer, channels=tuple(c for c in layer.channels if c not in gone))
            case "hidden_group":
                raise ValueError("a hidden group is of no layer")


def group_size(count: int, asked: int | None = None) -> int:
    """Elements of each group of `count`: as many as `asked`, else a twelfth, at least one.

    The twelfth is rounded to a multiple of `ALIGNMENT` where it is half of it or more.
    """
    if asked is not None:
        return min(asked, count)
    twelfth = max(1, -(-count // GROUPS_PER_BLOCK))
    if twelfth < ALIGNMENT // 2:
        return twelfth
    return (twelfth + ALIGNMENT // 2) // ALIGNMENT * ALIGNMENT


def layer_elements(shape: Shape) -> list[Element]:
    """The layers that are still present."""
    return [Element("layer", index) for index, layer in enumerate(shape.layers) if layer.present]


def block_elements(shape: Shape) -> list[Element]:
    """The attention and FFN blocks that are still present; of those that share weights the first."""
    blocks: list[Element] = []
    for index, layer in enumerate(shape.layers):
        if layer.heads and shape.leads(index):
            blocks.append(Element("attention", index))
        if layer.channels and shape.leads(index):
            blocks.append(Element("ffn", index))
    return blocks


def head_elements(shape: Shape, layer: int) -> list[Element]:
    """The heads that are still present in one layer; none where an earlier layer has the same weights."""
    return [Element("head", layer, head) for head in shape.layers[layer].heads if shape.leads(layer)]


def group_elements(
    shape: Shape, layer: int, group_size: int, ranking: np.ndarray | None = None
) -> list[Element]:
    """The FFN weight groups of one layer, `group_size` channels each (the last may be smaller).

    None where an earlier layer that is present has the same weights.
    `ranking` gives a significance per dense channel, shape (channels,): groups are then cut from
    the least significant channel upwards; without it they are contiguous, as published.
    """
    kept = np.asarray(shape.layers[layer].channels if shape.leads(layer) else (), dtype=np.int64)
    if ranking is not None and kept.size:
        kept = kept[np.argsort(ranking[kept], kind="stable")]
    return [
        Element("group", layer, number, tuple(sorted(int(c) for c in kept[start : start + group_size])))
        for number, start in enumerate(range(0, kept.size, group_size))
    ]


def hidden_elements(
    shape: Shape, width: int, group_size: int, ranking: np.ndarray | None = None
) -> list[Element]:
    """The groups of the hidden dimensions that are left of the dense model's `width`.

    Contiguous, the last one smaller where they do not come out even. `ranking`, a significance for each
    dimension, (width,): groups are cut from the least significant one upwards, the first one smaller, so
    that a multiple of `group_size` is left when it goes.
    """
    gone = set(shape.hidden_gone)
    kept = np.array([index for index in range(width) if index not in gone], dtype=np.int64)
    edges = list(range(0, kept.size, group_size))
    if ranking is not None:
        kept = kept[np.argsort(ranking[kept], kind="stable")]
        edges = [0, *range(kept.size % group_size or group_size, kept.size, group_size)]
    ends = [*edges[1:], kept.size]
    return [
        Element("hidden_group", ALL_LAYERS, number, tuple(sorted(kept[start:end].tolist())))
        for number, (start, end) in enumerate(zip(edges, ends, strict=True))
    ]
