"""One view of every supported architecture: where its elements are, and what they cost."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.spec import Recipe, Step
from worker.engine.anatomy.families import Family, LayerParts
from worker.engine.anatomy.masking import Gates, gated, masked
from worker.engine.anatomy.shape import LayerShape, Shape, positions
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

    @cached_property
    def parts(self) -> tuple[LayerParts, ...]:
        """The modules of the layers that are present, first layer first."""
        modules = self.model.get_submodule(self.family.layers)
        present = [at for at, layer in enumerate(self.full_shape().layers) if layer.present]
        return tuple(
            _parts(self.family, index, module)
            for index, module in zip(present, modules.children(), strict=True)
        )

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
        outside: int = sum(
            parameter.numel()
            for path in self.family.outside
            for parameter in self.model.get_submodule(path).parameters()
        )
        shape = self.checked(shape)
        gone = self._word_parameters(self.full_shape()) - self._word_parameters(shape)
        return outside - gone + sum(self._layer_parameters(layer) for layer in shape.layers)

    def macs(self, shape: Shape, length: int) -> int:
        """Multiply-accumulates for one example of `length` tokens.

        A layer with h heads of size s, hidden width d and c channels takes
        length * (4 d h s + 2 d c) for its linear modules (an FFN of rank r: 2 r (d + c) instead of 2 d c)
        and 2 * length^2 * h s for scores and context; the classifier d^2 + d * labels, on one token;
        embeddings of rank r length * d * r. Lookups, norms, activations and softmax multiply no matrices
        and count as 0. Hard attention saves none: it computes all scores first.
        """
        width = self.hidden_size
        total: int = width * (width + self.model.config.num_labels)
        total += length * width * (shape.embedding_rank or 0)
        for layer in self.checked(shape).layers:
            context = len(layer.heads) * self.head_size
            total += length * (4 * width * context + self._ffn_weights(layer))
            total += 2 * length**2 * context
        return total

    def masked(self, shape: Shape) -> AbstractContextManager[None]:
        """While it lasts, the model computes what `sliced(model, shape)` would.

        It then takes the same token ids, those of the vocabulary that `shape` leaves.
        Raises ValueError when the model does not hold all of `shape`.
        """
        full, shape = self.full_shape(), self.checked(shape)
        embeddings = self.model.get_submodule(self.family.embeddings)
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

    def checked(self, shape: Shape) -> Shape:
        """`shape` normalised. Raises ValueError when this model does not hold all of it."""
        shape, full = shape.normalised(), self.full_shape()
        self._check_rows(shape)
        if len(shape.layers) != len(full.layers):
            raise ValueError(f"the shape has {len(shape.layers)} layers, the dense model {len(full.layers)}")
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
        return Shape.full(self.layers, self.heads, self.channels)

    def _layer_parameters(self, layer: LayerShape) -> int:
        if not layer.present:
            return 0
        width, context, channels = self.hidden_size, len(layer.heads) * self.head_size, len(layer.channels)
        attention = 3 * (width + 1) * context + (context + 1) * width if context else 0
        ffn = self._ffn_weights(layer) + channels + width if channels else 0
        return attention + ffn + 4 * width

    def _ffn_weights(self, layer: LayerShape) -> int:
        """Values of a layer's two FFN matrices, which are its multiply-accumulates for one token, too."""
        width, channels = self.hidden_size, len(layer.channels)
        return 2 * (width * channels if layer.ffn_rank is None else (width + channels) * layer.ffn_rank)

    def _word_parameters(self, shape: Shape) -> int:
        rows, rank = self.vocabulary if shape.rows is None else len(shape.rows), shape.embedding_rank
        return rows * self.hidden_size if rank is None else (rows + self.hidden_size) * rank

    def _check_rows(self, shape: Shape) -> None:
        # RoBERTa counts positions from the padding id, and models are told by number what padding is.
        pad = self.model.config.pad_token_id or 0
        if shape.rows is not None and shape.rows[: pad + 1] != tuple(range(pad + 1)):
            raise ValueError(f"the rows up to that of padding, 0-{pad}, have to stay")

    def _check(self, number: int, step: Step) -> None:
        counts = {
            "layer": self.layers,
            "head": self.heads,
            "channel": self.channels,
            "row": self.vocabulary,
            "rank": self.hidden_size,
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


def _parts(family: Family, index: int, layer: nn.Module) -> LayerParts:
    names = family.names

    def at(path: str) -> Any:
        module: Any = layer
        for name in path.split("."):
            module = None if module is None else getattr(module, name)
        return module

    return LayerParts(
        index=index,
        module=layer,
        attention=at(names.attention),
        query=at(names.query),
        key=at(names.key),
        value=at(names.value),
        attention_output=at(names.attention_output),
        attention_norm=at(names.attention_norm),
        ffn_up=at(names.ffn_up),
        ffn_down=at(names.ffn_down),
        ffn_norm=at(names.ffn_norm),
    )
