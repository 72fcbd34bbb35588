"""Masks that are decided: what a shape keeps has no noise, and what it lacks is nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from models.spec import ApproximationName
from worker.engine.anatomy import Anatomy, Shape
from worker.engine.learned.vib import Masks

PRUNING: frozenset[ApproximationName] = frozenset(
    {"prune_layers", "prune_blocks", "prune_heads", "prune_weight_groups", "prune_hidden"}
)


def pruned_shape(anatomy: Anatomy, seed: int) -> Shape:
    """With a layer less, or a block, and fewer heads, channels and dimensions everywhere."""
    chance = random.Random(seed)

    def some(units: tuple[int, ...], least: int) -> tuple[int, ...]:
        return tuple(sorted(chance.sample(units, chance.randint(least, len(units)))))

    shape = anatomy.full_shape()
    for index, layer in enumerate(shape.layers):
        if shape.leads(index):
            kept = replace(
                layer, heads=some(layer.heads, int(index > 0)), channels=some(layer.channels, int(index > 1))
            )
            shape = shape.with_layer(index, kept)
    dropped = chance.randrange(len(shape.layers))
    shape = shape.with_layer(dropped, replace(shape.layers[dropped], present=False))
    gone = tuple(sorted(chance.sample(range(anatomy.hidden_size), anatomy.hidden_size // 4)))
    return replace(shape, hidden_gone=gone).normalised()


def decided(anatomy: Anatomy, shape: Shape, *, seed: int = 0, means: bool = False) -> Masks:
    """Masks that keep just what `shape` has: log alpha is far from 0 on either side.

    With `means` those of what stays are drawn between 0.5 and 1.5 and have no noise, so that they can be
    told from 1; else all means are about 1, and what goes is all noise.
    """
    masks = Masks(anatomy, PRUNING, seed)
    generator = torch.Generator().manual_seed(seed)
    for kind, layer, mask in masks.named():
        kept = torch.tensor(_kept(anatomy, shape, kind, layer))
        # Of heads, channels and blocks a mean of nothing is what is gone; the others go by their keeping.
        by_mean = means and kind not in ("hidden", "layers")
        with torch.no_grad():
            mask.log_variance.copy_(torch.where(kept | torch.tensor(by_mean), -60.0, 60.0))
            if means and kind != "layers":
                drawn = 0.5 + torch.rand(len(kept), generator=generator)
                mask.mu.copy_(torch.where(kept, drawn, 0.0 if by_mean else 1.0))
                if kind == "hidden":
                    mask.log_variance.copy_(torch.where(kept, -60.0, 3.0))
    return masks


def _kept(anatomy: Anatomy, shape: Shape, kind: str, layer: int) -> list[bool]:
    full = anatomy.full_shape()
    if kind == "hidden":
        return [index not in shape.hidden_gone for index in range(anatomy.hidden_size)]
    if kind == "layers":
        return [shape.layers[layer].present]
    present = (shape.layers[each] for each in full.sharing(layer) if shape.layers[each].present)
    own = next(present, shape.layers[layer])
    return {
        "heads": [head in own.heads for head in full.layers[layer].heads],
        "channels": [channel in own.channels for channel in full.layers[layer].channels],
        "attention": [bool(own.heads)],
        "ffn": [bool(own.channels)],
    }[kind]
