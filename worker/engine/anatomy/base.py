"""One view of every supported architecture: where its elements are, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.spec import Recipe, Step
from worker.engine.anatomy.costs import Amounts, model_macs, model_parameters
from worker.engine.anatomy.families import Family, LayerParts, layer_parts
from worker.engine.anatomy.heads import HeadKind
from worker.engine.anatomy.hidden import narrowing
from worker.engine.anatomy.lm_head import masked_head
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
        shape = self._normalised(self.full_shape().applied(recipe))
        self._check_rows(shape)
        return shape

    def width(self, shape: Shape) -> int:
        """Dimensions of the residual stream that `shape` leaves. Raises ValueError when it leaves none."""
        width = self.hidden_size - len(shape.hidden_gone)
        if width < 1:
            raise ValueError("the shape leaves no hidden dimension")
        return width

    def parameters(self, shape: Shape) -> int:
        """Parameters of the model that `sliced(model, shape)` returns, embeddings included."""
        return int(model_parameters(self, Amounts.of(self, self.checked(shape))))

    def macs(self, shape: Shape, length: int) -> int:
        """Multiply-accumulates for one sequence of `length` tokens.

        A layer with h heads of size s, hidden width d (as `shape` leaves it) and c channels takes
        length * (4 d h s + 2 d c) for its linear modules (3 d c where the FFN is gated; of rank r it has
        r (d + c) for each d c; 2 d g s less 2 d h s where only g heads have keys and values) and
        2 * length^2 * h s for scores and context, what is masked among them; a head with two linear modules
        d^2 + d * labels, with one d * labels, on one token, or on every token where it answers for each (of
        a language model, labels are the words);
        embeddings of width e that are projected length * d e, those of rank r length * e r more. Lookups,
        norms, activations and softmax multiply no matrices and count as 0. Hard and local attention save
        none: they compute all scores first; sign matching with a softmax takes length^2 s more a head. Layers
        that share weights count each.
        """
        return int(model_macs(self, Amounts.of(self, self.checked(shape)), length))

    def masked(self, shape: Shape) -> AbstractContextManager[None]:
        """While it lasts, the model computes what `sliced(model, shape)` would.

        It then takes the same token ids, those of the vocabulary that `shape` leaves.
        Raises ValueError when the model does not hold all of `shape`.
        """
        full, shape = self.full_shape(), self.checked(shape)
        embeddings, narrower, rows = self.outside["embeddings"], narrowing(self, shape), self.token_ids(shape)
        whole = masked(self.model, embeddings, self.parts, full, shape, self.head_size, rows, narrower)
        if self.kind != "causal":
            return whole
        columns = None if narrower is None else narrower.kept
        return _both(whole, masked_head(self, embeddings, shape, rows, columns))

    def token_ids(self, shape: Shape) -> Tensor | None:
        """This model's token id for each token id of the vocabulary that `shape` leaves, (rows,).

        None where both are the same.
        """
        held, kept = self.full_shape().rows, shape.rows
        if kept is None or kept == held:
            return None
        return torch.tensor(kept if held is None else positions(held, kept))

    def gated(self, batch_size: int | None = None, *, hidden: bool = False) -> AbstractContextManager[Gates]:
        """While it lasts, contexts of heads and activations of channels are multiplied by gates.

        With `hidden` there are gates on the dimensions of the residual stream, too, one for each, shared by
        all that reads it (see `hidden.weighted_norm`); tables of relative positions are not gated by them.

        The gates are ones that require gradients, of shapes (layers, heads), (layers, channels) and
        (hidden,) by dense index; with `batch_size` each has that many in front, so that one backward pass
        of a summed loss gives each example's own gradients. Gates of
        elements that the model does not have any more take no part: their gradient is 0.
        Combines with `masked`.
        """
        return gated(self, batch_size, hidden)

    @cached_property
    def form(self) -> Mapping[str, Any]:
        """How the model computes, as fields of `AxforgeConfig`."""
        return self.family.variant(self.model.config)

    @property
    def kv_group(self) -> int:
        """How many of the dense model's query heads share a head of keys and values."""
        return int((self.form.get("causal") or {}).get("kv_group", 1))

    @property
    def tied_head(self) -> bool:
        """Whether the word embedding is also the matrix of a language model's head."""
        return self.kind == "causal" and bool((self.form.get("causal") or {})["tied_head"])

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
        shape, full = self._normalised(shape), self.full_shape()
        self._check_rows(shape)
        if len(shape.layers) != len(full.layers):
            raise ValueError(f"the shape has {len(shape.layers)} layers, the dense model {len(full.layers)}")
        if shape.shares != full.shares:
            raise ValueError("the shape's layers do not share weights as the model's do")
        width = self.width(shape)
        for index, (wanted, held) in enumerate(zip(shape.layers, full.layers, strict=True)):
            if not wanted.within(held, width):
                raise ValueError(f"the shape keeps elements of layer {index} that the model does not have")
        if not shape.within(full, width, self._embedding_width(shape)):
            raise ValueError("the shape keeps rows or dimensions that the model does not have")
        return shape

    def _normalised(self, shape: Shape) -> Shape:
        return shape.normalised(self.width(shape), self._embedding_width(shape))

    def _embedding_width(self, shape: Shape) -> int:
        """Of the embeddings of a model of `shape`, which are projected or as wide as the stream."""
        return int(self.form.get("embedding_size") or self.width(shape))

    @cached_property
    def _full_shape(self) -> Shape:
        kept = getattr(self.model.config, "axforge", None)
        if kept is not None:
            return Shape.from_json(kept)
        return Shape.full(self.layers, self.heads, self.channels, self.shares)

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
            "dimension": self.hidden_size,
            "row": self.vocabulary,
            "rank": self.hidden_size,
            "embedding rank": self.embedding_width,
        }
        structural = STRUCTURAL.get(step.approximation)
        for field, what, indices in structural.named(step) if structural else ():
            _check_indices(f"steps/{number}/{field}", what, indices, counts[what])


@contextmanager
def _both(one: AbstractContextManager[None], other: AbstractContextManager[None]) -> Iterator[None]:
    with one, other:
        yield


def _check_indices(where: str, what: str, indices: tuple[int, ...], count: int) -> None:
    beyond = [index for index in indices if index >= count]
    if beyond:
        raise ValueError(
            f"{where}: {what} {beyond[0]} does not exist; the dense model has {what}s 0-{count - 1}"
        )
