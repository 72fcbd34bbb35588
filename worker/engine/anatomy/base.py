"""One view of every supported architecture: where its elements are, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.spec import Recipe, Step
from worker.engine.anatomy.costs import head_macs, layer_macs, layer_parameters, matrix_values
from worker.engine.anatomy.families import Family, LayerParts, layer_parts
from worker.engine.anatomy.heads import HeadKind
from worker.engine.anatomy.masking import Gates, gated, masked
from worker.engine.anatomy.shape import Shape, positions
from worker.engine.approximations import STRUCTURAL


@dataclass(frozen=True)
class Anatomy:
    """A model's elements. Layers, heads, channels and vocabulary rows are always named by their dense index.

    `layers`, `heads` (a layer), `channels` (a layer) and `vocabulary` count the *dense* model's elements;
    a model that was sliced before has fewer, and `full_shape()` says which. A recipe therefore means the
    same on the dense model and on anything sliced from it.
    """

    model: PreTrainedModel
    family: Family
    layers: int
    heads: int
    channels: int
    head_size: int
    hidden_size: int
    vocabulary: int
    shares: tuple[int, ...] = ()
    kind: HeadKind = "sequence"

    @cached_property
    def parts(self) -> tuple[LayerParts, ...]:
        """The modules of the layers that are present, first layer first."""
        modules = self.model.get_submodule(self.family.layers)
        present = [at for at, layer in enumerate(self.full_shape().layers) if layer.present]
        return tuple(
            layer_parts(self.family.names, index, module)
            for index, module in zip(present, modules.children(), strict=True)
        )

    @cached_property
    def outside(self) -> Mapping[str, nn.Module]:
        """The modules that are in no layer, the head's among them, by their path in the exported model."""
        return self.family.outside(self.model, self.kind)

    def full_shape(self) -> Shape:
        """What this model has: everything, or what slicing left of it."""
        return self._full_shape

    def shape(self, recipe: Recipe) -> Shape:
        """What `recipe` leaves of this model.

        The recipe may be the whole one or only the steps since this model was sliced: removing
        what is gone already changes nothing. Raises ValueError when a step names a layer, head,
        channel or row that the dense model does not have.
        """
        for number, step in enumerate(recipe.steps):
            self._check(number, step)
        shape = self.full_shape().applied(recipe).normalised()
        self._check_rows(shape)
        return shape

    def parameters(self, shape: Shape) -> int:
        """Parameters of the model that `sliced(model, shape)` returns, embeddings included."""
        outside = self.outside.values()
        total: int = sum(parameter.numel() for module in outside for parameter in module.parameters())
        shape, pre_norm = self.checked(shape), self.form.get("norm_placement") == "pre"
        total -= self._word_parameters(self.full_shape()) - self._word_parameters(shape)
        return total + sum(
            layer_parameters(part, shape.layers[part.index], self.head_size, pre_norm=pre_norm)
            for part in self.parts
            if shape.leads(part.index)
        )

    def macs(self, shape: Shape, length: int) -> int:
        """Multiply-accumulates for one sequence of `length` tokens.

        A layer with h heads of size s, hidden width d and c channels takes
        length * (4 d h s + 2 d c) for its linear modules (3 d c where the FFN is gated; of rank r it has
        r (d + c) for each d c) and 2 * length^2 * h s for scores and context; a head with two linear modules
        d^2 + d * labels, with one d * labels, on one token, or on every token where it answers for each;
        embeddings of width e that are projected length * d e, those of rank r length * e r more. Lookups,
        norms, activations and softmax multiply no matrices and count as 0. Hard and local attention save
        none: they compute all scores first. Layers that share weights count each.
        """
        shape, width, dense = self.checked(shape), self.hidden_size, "head.dense" in self.outside
        total = head_macs(self.kind, width, self.model.config.num_labels, length, dense=dense)
        total += length * width * (self.form.get("embedding_size") or 0)
        total += length * self.embedding_width * (shape.embedding_rank or 0)
        return total + sum(
            layer_macs(self.form, width, self.head_size, layer, length) for layer in shape.layers
        )

    def masked(self, shape: Shape) -> AbstractContextManager[None]:
        """While it lasts, the model computes what `sliced(model, shape)` would.

        It then takes the same token ids, those of the vocabulary that `shape` leaves.
        Raises ValueError when the model does not hold all of `shape`.
        """
        full, shape = self.full_shape(), self.checked(shape)
        embeddings = self.outside["embeddings"]
        return masked(self.model, embeddings, self.parts, full, shape, self.head_size, self.token_ids(shape))

    def token_ids(self, shape: Shape) -> Tensor | None:
        """This model's token id for each token id of the vocabulary that `shape` leaves, (rows,).

        None where both are the same.
        """
        held, kept = self.full_shape().rows, shape.rows
        if kept is None or kept == held:
            return None
        return torch.tensor(kept if held is None else positions(held, kept))

    def gated(self, batch_size: int | None = None) -> AbstractContextManager[Gates]:
        """While it lasts, contexts of heads and activations of channels are multiplied by gates.

        The gates are ones that require gradients, of shapes (layers, heads) and (layers, channels)
        by dense index; with `batch_size` (batch, layers, heads) and (batch, layers, channels), so
        that one backward pass of a summed loss gives each example's own gradients. Gates of
        elements that the model does not have any more take no part: their gradient is 0.
        Combines with `masked`.
        """
        return gated(self, batch_size)

    @cached_property
    def form(self) -> Mapping[str, Any]:
        """How the model computes, as fields of `AxforgeConfig`."""
        return self.family.variant(self.model.config)

    @property
    def embedding_width(self) -> int:
        """Values of a row of the dense model's word embedding."""
        return int(self.form.get("embedding_size") or self.hidden_size)

    @property
    def fixed_rows(self) -> frozenset[int]:
        """Rows of the vocabulary that have to stay: padding's, and those before it where its id tells places.

        RoBERTa counts positions from the padding id.
        """
        pad, held = self.form["pad_token_id"] or 0, self.full_shape().rows
        row = pad if held is None else held[pad]
        return frozenset(range(row + 1) if self.form.get("positions") == "after_padding" else [row])

    @property
    def layer_variants(self) -> tuple[Mapping[str, Any], ...]:
        """What each layer of the dense model has of its own, as `AxforgeConfig.layer_variants`."""
        config = self.model.config
        return tuple(self.family.layer_variant(config, layer) for layer in range(self.layers))

    def checked(self, shape: Shape) -> Shape:
        """`shape` normalised. Raises ValueError when this model does not hold all of it."""
        shape, full = shape.normalised(), self.full_shape()
        self._check_rows(shape)
        if len(shape.layers) != len(full.layers):
            raise ValueError(f"the shape has {len(shape.layers)} layers, the dense model {len(full.layers)}")
        if shape.shares != full.shares:
            raise ValueError("the shape's layers do not share weights as the model's do")
        for index, (wanted, held) in enumerate(zip(shape.layers, full.layers, strict=True)):
            if not wanted.within(held):
                raise ValueError(f"the shape keeps elements of layer {index} that the model does not have")
        if not shape.within(full):
            raise ValueError("the shape keeps rows of the vocabulary that the model does not have")
        return shape

    @cached_property
    def _full_shape(self) -> Shape:
        kept = getattr(self.model.config, "axforge", None)
        if kept is not None:
            return Shape.from_json(kept)
        return Shape.full(self.layers, self.heads, self.channels, self.shares)

    def _word_parameters(self, shape: Shape) -> int:
        rows, rank = self.vocabulary if shape.rows is None else len(shape.rows), shape.embedding_rank
        return matrix_values(rows, self.embedding_width, rank)

    def _check_rows(self, shape: Shape) -> None:
        lost = set() if shape.rows is None else self.fixed_rows - set(shape.rows)
        if lost:
            raise ValueError(
                f"row {min(lost)} has to stay: it is padding's, or positions are counted from it"
            )

    def _check(self, number: int, step: Step) -> None:
        counts = {
            "layer": self.layers,
            "head": self.heads,
            "channel": self.channels,
            "row": self.vocabulary,
            "rank": self.hidden_size,
            "embedding rank": self.embedding_width,
        }
        structural = STRUCTURAL.get(step.approximation)
        for field, what, indices in structural.named(step) if structural else ():
            _check_indices(f"steps/{number}/{field}", what, indices, counts[what])


def _check_indices(where: str, what: str, indices: tuple[int, ...], count: int) -> None:
    beyond = [index for index in indices if index >= count]
    if beyond:
        raise ValueError(
            f"{where}: {what} {beyond[0]} does not exist; the dense model has {what}s 0-{count - 1}"
        )
