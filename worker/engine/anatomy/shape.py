"""A shape: what is left of every layer. A recipe's structural steps, folded into their result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.spec import Recipe
from models.spec.ranges import as_ranges, from_ranges
from worker.engine.approximations import STRUCTURAL
from worker.engine.approximations.sparse_heads import SparseHead, from_json, only, to_json


@dataclass(frozen=True)
class LayerShape:
    """What is left of one layer, by index in the dense model.

    `heads` is empty when the attention block is removed, `channels` when the FFN block is:
    of a removed block only the residual path and its layer norm remain. `present=False` skips the
    whole layer, norms included. `sparse`: the heads that read a few tokens only. `ffn_rank`: both
    FFN matrices are products with so many values between; None for whole ones.
    """

    heads: tuple[int, ...]
    channels: tuple[int, ...]
    present: bool = True
    sparse: tuple[SparseHead, ...] = ()
    ffn_rank: int | None = None

    def normalised(self, width: int | None = None) -> LayerShape:
        """The one way to write this shape: what is gone keeps no details.

        `width` is that of the hidden states: of its rank or more, a matrix is whole.
        """
        if not self.present:
            return LayerShape((), (), present=False)
        ranked = self.ffn_rank is not None and self.ffn_rank < self._most_rank(width)
        return replace(
            self,
            sparse=only(self.sparse, self.heads),
            ffn_rank=self.ffn_rank if ranked else None,
        )

    def within(self, other: LayerShape, width: int | None = None) -> bool:
        """Whether this can be reached from `other` by taking away only. Both normalised, to their widths."""
        return (
            (other.present or not self.present)
            and set(self.heads) <= set(other.heads)
            and set(self.channels) <= set(other.channels)
            and self._reads_no_more(other)
            and _no_more(self.ffn_rank or self._most_rank(width), other.ffn_rank)
        )

    def _most_rank(self, width: int | None) -> int:
        """That a matrix between the channels and hidden states of `width` can have."""
        channels = len(self.channels)
        return channels if width is None else min(channels, width)

    def _reads_no_more(self, other: LayerShape) -> bool:
        mine = {each.head: each for each in self.sparse}
        return all(
            each.head not in self.heads or (each.head in mine and mine[each.head].within(each))
            for each in other.sparse
        )


@dataclass(frozen=True)
class Shape:
    """One `LayerShape` for every layer of the dense model, skipped ones included.

    `rows`: the rows of the word embedding that are left, ascending, by index in the dense model; None for
    all of them. The model then takes token ids that count these rows. `embedding_rank`: values of a row of
    the table, from which a matrix makes its whole width; None for whole rows.
    `hidden_gone`: the dimensions of the residual stream that are removed from all modules, ascending.
    `shares` has a number for each layer: those of the same number have the same weights, and so the same
    heads, channels and rank as long as they are present. Empty: each layer has its own.
    """

    layers: tuple[LayerShape, ...]
    rows: tuple[int, ...] | None = None
    embedding_rank: int | None = None
    shares: tuple[int, ...] = ()
    hidden_gone: tuple[int, ...] = ()

    @staticmethod
    def full(layers: int, heads: int, channels: int, shares: tuple[int, ...] = ()) -> Shape:
        """The dense model's shape."""
        layer = LayerShape(tuple(range(heads)), tuple(range(channels)))
        return Shape((layer,) * layers, shares=shares)

    def with_layer(self, index: int, layer: LayerShape) -> Shape:
        """This shape with another layer; what it has lost, layers with the same weights lose too."""
        layers = list(self.layers)
        if layer.present:
            for other in self.sharing(index):
                layers[other] = replace(
                    layers[other], heads=layer.heads, channels=layer.channels, ffn_rank=layer.ffn_rank
                )
        layers[index] = layer
        return replace(self, layers=tuple(layers))

    def without_layers(self) -> Shape:
        """This shape with no layer left: what lies outside them."""
        return replace(self, layers=(LayerShape((), (), present=False),) * len(self.layers))

    def sharing(self, index: int) -> tuple[int, ...]:
        """The present layers that have the weights of layer `index`; itself among them, if it is present."""
        share = self.shares[index] if self.shares else None
        return tuple(
            other
            for other, layer in enumerate(self.layers)
            if layer.present and (other == index or (share is not None and self.shares[other] == share))
        )

    def leads(self, index: int) -> bool:
        """Whether no earlier layer that is present has the same weights: what is weighed once, is here."""
        return self.sharing(index)[:1] == (index,)

    def normalised(self, width: int | None = None, embedding_width: int | None = None) -> Shape:
        """Equal for all shapes that mean the same model, if its hidden states and embeddings are so wide."""
        layers = tuple(layer.normalised(width) for layer in self.layers)
        rank = self.embedding_rank
        if rank is not None and embedding_width is not None and rank >= embedding_width:
            rank = None
        return replace(self, layers=layers, embedding_rank=rank)

    def within(self, other: Shape, width: int | None = None, embedding_width: int | None = None) -> bool:
        """Whether this can be reached from `other` by taking away only. Both normalised, to their widths."""
        return (
            len(self.layers) == len(other.layers)
            and self._rows_within(other)
            and set(other.hidden_gone) <= set(self.hidden_gone)
            and _no_more(self.embedding_rank or embedding_width, other.embedding_rank)
            and all(
                mine.within(theirs, width) for mine, theirs in zip(self.layers, other.layers, strict=True)
            )
        )

    def applied(self, recipe: Recipe) -> Shape:
        """This shape after the structural steps of `recipe`; quantize and recover change none.

        Raises IndexError when a step names a layer that the model does not have.
        """
        shape = self
        for step in recipe.steps:
            structural = STRUCTURAL.get(step.approximation)
            if structural is not None:
                shape = structural.narrowed(shape, step)
        return shape

    def to_json(self) -> dict[str, Any]:
        """For a config.json. Indices are written as ranges: "0-127,256-1535"."""
        layers = [
            {
                "heads": as_ranges(layer.heads),
                "channels": as_ranges(layer.channels),
                "present": layer.present,
                "sparse": to_json(layer.sparse),
                "ffn_rank": layer.ffn_rank,
            }
            for layer in self.layers
        ]
        rows = None if self.rows is None else as_ranges(self.rows)
        return {
            "layers": layers,
            "rows": rows,
            "embedding_rank": self.embedding_rank,
            "shares": list(self.shares),
            "hidden_gone": as_ranges(self.hidden_gone),
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Shape:
        """The inverse of `to_json`."""
        layers = tuple(
            LayerShape(
                from_ranges(layer["heads"]),
                from_ranges(layer["channels"]),
                layer["present"],
                from_json(layer["sparse"]),
                layer["ffn_rank"],
            )
            for layer in document["layers"]
        )
        rows = document["rows"]
        return Shape(
            layers,
            None if rows is None else from_ranges(rows),
            document["embedding_rank"],
            tuple(document["shares"]),
            from_ranges(document.get("hidden_gone", "")),
        )

    def _rows_within(self, other: Shape) -> bool:
        if self.rows is other.rows or other.rows is None:
            return True
        return self.rows is not None and set(self.rows) <= set(other.rows)


def positions(held: tuple[int, ...], kept: tuple[int, ...]) -> list[int]:
    """Where each of the elements `kept` is among those `held`."""
    place = {index: at for at, index in enumerate(held)}
    return [place[index] for index in kept]


def _no_more(mine: int | None, theirs: int | None) -> bool:
    return theirs is None or (mine is not None and mine <= theirs)
