"""What a model of a shape costs: parameters, and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.engine.anatomy.families import LayerParts, Rows
from worker.engine.anatomy.heads import BY_TOKEN, HeadKind
from worker.engine.anatomy.shape import LayerShape


def layer_parameters(part: LayerParts, layer: LayerShape, head_size: int, *, pre_norm: bool) -> int:
    """Parameters of a layer that keeps `layer` of what `part` has.

    A norm that comes before its block goes with it; one that comes after it stays.
    """
    total = 0
    if layer.heads and part.attention_output is not None:
        rows = len(layer.heads) * head_size
        total += sum(_parameters(up, up.inputs, rows) for up in part.by_head.values())
        output = Rows(part.attention_output)
        total += _parameters(output, rows, output.outputs)
    if layer.channels and part.ffn_down is not None:
        channels, down = len(layer.channels), Rows(part.ffn_down)
        total += sum(_parameters(up, up.inputs, channels, layer.ffn_rank) for up in part.ffn_ups)
        total += _parameters(down, channels, down.outputs, layer.ffn_rank)
    norms = ((part.attention_norm, layer.heads), (part.ffn_norm, layer.channels))
    for norm, kept in norms:
        if norm is not None and (kept or not pre_norm):
            total += sum(parameter.numel() for parameter in norm.parameters())
    return total


def layer_macs(form: Mapping[str, Any], width: int, head_size: int, layer: LayerShape, length: int) -> int:
    """Multiply-accumulates of one layer on one example of `length` tokens.

    `form` tells how the model computes, as `AxforgeConfig` does.
    """
    if not layer.present:
        return 0
    context = len(layer.heads) * head_size
    projections = 3 if form.get("ffn") == "gated" else 2
    ffn = projections * matrix_values(width, len(layer.channels), layer.ffn_rank)
    total = length * (4 * width * context + ffn)
    total += 2 * length**2 * context
    relative = form.get("relative") or {}
    if relative.get("kind") == "disentangled":
        # Each term projects the table of relative positions, and meets every token with each of its rows.
        total += len(relative["terms"]) * 2 * relative["span"] * (width + length) * context
    return total


def head_macs(kind: HeadKind, width: int, labels: int, length: int, *, dense: bool) -> int:
    """Multiply-accumulates of a head on one sequence, of all tokens only where it answers by token.

    `dense`: it has a linear module before that of its logits.
    """
    outputs = {"sequence": labels, "token": labels, "span": 2, "choice": 1}[kind]
    return (length if kind in BY_TOKEN else 1) * width * (outputs + width * dense)


def matrix_values(one: int, other: int, rank: int | None) -> int:
    """Values of a (one, other) matrix, or of the two that it is a product of."""
    return one * other if rank is None else (one + other) * rank


def _parameters(projection: Rows, inputs: int, outputs: int, rank: int | None = None) -> int:
    """Of a projection cut to so many inputs and outputs, its bias included."""
    return matrix_values(inputs, outputs, rank) + outputs * (projection.bias is not None)
