"""Grafting: a wider model takes over what a narrower one sliced from the same dense model has learnt."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.families import LayerParts, Linear, Rows
from worker.engine.anatomy.shape import LayerShape, Shape, positions
from worker.engine.anatomy.slicing import as_axforge, sliced


@torch.no_grad()
def grafted(model: PreTrainedModel, shape: Shape, narrow: PreTrainedModel) -> PreTrainedModel:
    """A model of `shape`: weights of `narrow`, which holds a part of it, and for the rest those of `model`.

    With the elements removed that `narrow` lacks, it computes what `narrow` does. Raises ValueError where
    `narrow` holds more than `shape`, has another vocabulary, or one of them has matrices of low rank.
    """
    wide, part = as_axforge(sliced(model, shape)), as_axforge(narrow)
    target, source = anatomy_of(wide), anatomy_of(part)
    kept, held = target.full_shape(), source.full_shape()
    if (
        not held.within(kept)
        or (held.rows, held.hidden_gone) != (kept.rows, kept.hidden_gone)
        or _low_rank(kept)
        or _low_rank(held)
    ):
        raise ValueError("what is grafted has to be a part of the model, with whole matrices")
    if _sizes(wide) != _sizes(part):
        raise ValueError("what is grafted has to be of the same width")
    own = {layer.index: layer for layer in target.parts}
    for name, module in target.outside.items():
        module.load_state_dict(source.outside[name].state_dict())
    for layer in source.parts:
        at = layer.index
        _graft_layer(own[at], layer, kept.layers[at], held.layers[at], target.head_size)
    return sliced(wide, kept)


def _sizes(model: PreTrainedModel) -> list[torch.Size]:
    """Sizes of what is outside the layers."""
    outside = anatomy_of(model).outside.values()
    return [value.shape for module in outside for value in module.state_dict().values()]


def _low_rank(shape: Shape) -> bool:
    ranks = (shape.embedding_rank, *(layer.ffn_rank for layer in shape.layers))
    return any(rank is not None for rank in ranks)


def _graft_layer(
    target: LayerParts, source: LayerParts, kept: LayerShape, held: LayerShape, head_size: int
) -> None:
    for wanted, given in ((target.attention_norm, source.attention_norm), (target.ffn_norm, source.ffn_norm)):
        if wanted is not None and given is not None:
            wanted.load_state_dict(given.state_dict())
    if held.heads:
        heads = torch.tensor(positions(kept.heads, held.heads))
        rows = (heads[:, None] * head_size + torch.arange(head_size)).flatten()
        for name, projection in source.by_head.items():
            _put(target.by_head[name], projection, rows=rows)
        _put(_rows(target.attention_output), _rows(source.attention_output), columns=rows)
    if held.channels:
        channels = torch.tensor(positions(kept.channels, held.channels))
        for wanted_up, up in zip(target.ffn_ups, source.ffn_ups, strict=True):
            _put(wanted_up, up, rows=channels)
        _put(_rows(target.ffn_down), _rows(source.ffn_down), columns=channels)


def _rows(linear: Linear | None) -> Rows:
    assert linear is not None
    return Rows(linear)


def _put(target: Rows, source: Rows, *, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    """Write all of `source` to these outputs or inputs of `target`; an output bias as a whole."""
    device = target.weight.device
    if rows is not None:
        target.weight[rows.to(device)] = source.weight.to(device)
        if target.bias is not None and source.bias is not None:
            target.bias[rows.to(device)] = source.bias.to(device)
    elif columns is not None:
        target.weight[:, columns.to(device)] = source.weight.to(device)
        if target.bias is not None and source.bias is not None:
            target.bias.copy_(source.bias)
