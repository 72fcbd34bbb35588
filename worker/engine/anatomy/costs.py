"""What a model of a shape costs: parameters, and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.engine.anatomy.families import LayerParts, Rows
from worker.engine.anatomy.groups import heads_of
from worker.engine.anatomy.heads import BY_TOKEN, HeadKind
from worker.engine.anatomy.shape import LayerShape


def layer_parameters(
    part: LayerParts, layer: LayerShape, width: int, head_size: int, *, pre_norm: bool, kv_group: int = 1
) -> int:
    """Parameters of a layer that keeps `layer` of what `part` has, of hidden states so wide.

    A norm that comes before its block goes with it; one that comes after it stays. `kv_group`: query heads
    that share a head of keys and values.
    """
    total = 0
    if layer.heads and part.attention_output is not None:
        rows = len(layer.heads) * head_size
        for name, up in part.by_head.items():
            total += _parameters(up, width, len(heads_of(name, layer.heads, kv_group)) * head_size)
        total += sum(norm.numel() for each in part.head_norms.values() for norm in each.parameters())
        total += _parameters(Rows(part.attention_output), rows, width)
    if layer.channels and part.ffn_down is not None:
        channels = len(layer.channels)
        total += sum(_parameters(up, width, channels, layer.ffn_rank) for up in part.ffn_ups)
        total += _parameters(Rows(part.ffn_down), channels, width, layer.ffn_rank)
    norms = ((part.attention_norm, layer.heads), (part.ffn_norm, layer.channels))
    for norm, kept in norms:
        if norm is not None and (kept or not pre_norm):
            total += sum(width for _ in norm.parameters())
    return total


def layer_macs(form: Mapping[str, Any], width: int, head_size: int, layer: LayerShape, length: int) -> int:
    """Multiply-accumulates of one layer on one example of `length` tokens.

    `form` tells how the model computes, as `AxforgeConfig` does.
    """
    if not layer.present:
        return 0
    context = len(layer.heads) * head_size
    kv_group = (form.get("causal") or {}).get("kv_group", 1)
    shared = len(heads_of("key", layer.heads, kv_group)) * head_size
    projections = 3 if form.get("ffn") == "gated" else 2
    ffn = projections * matrix_values(width, len(layer.channels), layer.ffn_rank)
    total = length * (2 * width * (context + shared) + ffn)
    total += 2 * length**2 * context
    # Signs are compared by a product of their own, in the place of scores where no softmax is taken of these.
    compared = sum(each.kind == "sign_softmax" for each in layer.sparse)
    total += length**2 * compared * head_size
    relative = form.get("relative") or {}
    if relative.get("kind") == "disentangled":
        # Each term projects the table of relative positions, and meets every token with each of its rows.
        total += len(relative["terms"]) * 2 * relative["span"] * (width + length) * context
    return total


def head_macs(kind: HeadKind, width: int, labels: int, length: int, *, dense: bool) -> int:
    """Multiply-accumulates of a head on one sequence, of all tokens only where it answers by token.

    `dense`: it has a linear module before that of its logits. `labels`: of a language model the words.
    """
    outputs = {"sequence": labels, "token": labels, "span": 2, "choice": 1, "causal": labels}[kind]
    return (length if kind in BY_TOKEN else 1) * width * (outputs + width * dense)


def matrix_values(one: int, other: int, rank: int | None) -> int:
    """Values of a (one, other) matrix, or of the two that it is a product of."""
    return one * other if rank is None else (one + other) * rank


def _parameters(projection: Rows, inputs: int, outputs: int, rank: int | None = None) -> int:
    """Of a projection cut to so many inputs and outputs, its bias included."""
    return matrix_values(inputs, outputs, rank) + outputs * (projection.bias is not None)
