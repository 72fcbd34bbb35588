"""Folding: the means of the masks of what stays become part of the weights beside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.engine.anatomy import Anatomy, Shape
from worker.engine.anatomy.families import Linear, Rows
from worker.engine.anatomy.hidden import dimensions, points
from worker.engine.anatomy.shape import positions
from worker.engine.export.modeling_axforge import LowRankLinear
from worker.engine.learned.vib import Kind, Masks


@torch.no_grad()
def fold(anatomy: Anatomy, masks: Masks, shape: Shape) -> PreTrainedModel:
    """Multiply weights, in place, by the means of the masks of what `shape` keeps; answers the model.

    Masked to `shape`, and so sliced to it, the model then computes what it computed with the masks' means on
    what stays and zeros elsewhere. Weights of what goes are left as they are, for whoever gives it back.
    Heads and channels go into the output projection's inputs, a block's mean into all of its outputs, that of
    a hidden dimension into weight and bias of every norm over the stream. Layers have none (see `gating`).
    """
    means = _Means(anatomy, masks, shape)
    hidden = means.of("hidden", 0, dimensions(anatomy, anatomy.full_shape()), dimensions(anatomy, shape))
    if hidden is not None:
        norms = (point.module for point in points(anatomy) if point.place == "norm")
        # Layers may share a norm, or its parameters.
        for parameter in {id(each): each for norm in norms for each in norm.parameters()}.values():
            parameter.mul_(hidden)
    full = anatomy.full_shape()
    for part in anatomy.parts:
        if not full.leads(part.index):
            continue
        held, kept = full.layers[part.index], means.kept_of(part.index)
        if part.attention_output is not None:
            heads = means.of("heads", part.index, held.heads, kept[0])
            each = None if heads is None else heads.repeat_interleave(anatomy.head_size)
            _fold(
                part.attention_output, each, means.of("attention", part.index, (0,), (0,) if kept[0] else ())
            )
        if part.ffn_down is not None:
            channels = means.of("channels", part.index, held.channels, kept[1])
            _fold(part.ffn_down, channels, means.of("ffn", part.index, (0,), (0,) if kept[1] else ()))
    return anatomy.model


class _Means:
    """Factors by which what is held is multiplied: a mask's mean where a unit stays, 1 where it goes."""

    def __init__(self, anatomy: Anatomy, masks: Masks, shape: Shape) -> None:
        self.anatomy, self.masks, self.shape = anatomy, masks, shape

    def kept_of(self, leader: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Heads and channels that stay of the layers with the weights of `leader`."""
        present = [
            self.shape.layers[index]
            for index in self.anatomy.full_shape().sharing(leader)
            if self.shape.layers[index].present
        ]
        return (present[0].heads, present[0].channels) if present else ((), ())

    def of(self, kind: Kind, layer: int, held: tuple[int, ...], kept: tuple[int, ...]) -> Tensor | None:
        """(held,); None without a mask."""
        mask = self.masks.of(kind, layer)
        if mask is None:
            return None
        places = torch.tensor(positions(held, kept), dtype=torch.long, device=mask.mu.device)
        return torch.ones_like(mask.mu).index_copy_(0, places, mask.mu[places])


def _fold(projection: Linear, inputs: Tensor | None, outputs: Tensor | None) -> None:
    first: nn.Module = projection.inner if isinstance(projection, LowRankLinear) else projection
    last: nn.Module = projection.outer if isinstance(projection, LowRankLinear) else projection
    if inputs is not None:
        Rows(first).weight.mul_(inputs)  # (outputs, inputs), a view
    if outputs is not None:
        Rows(last).weight.mul_(outputs)
        bias = Rows(last).bias
        if bias is not None:
            bias.mul_(outputs)
