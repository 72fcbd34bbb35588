"""What a model of a shape costs: parameters, and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.engine.anatomy.families import LayerParts
from worker.engine.anatomy.heads import BY_TOKEN, HeadKind
from worker.engine.anatomy.shape import LayerShape


def layer_parameters(part: LayerParts, layer: LayerShape, head_size: int, *, pre_norm: bool) -> int:
    """Parameters of a layer that keeps `layer` of what `part` has.

    A norm that comes before its block goes with it; one that comes after it stays.
    """
    total = 0
    if layer.heads and part.attention_output is not None:
        rows = len(layer.heads) * head_size
        total += rows * sum(projection.parameters_each for projection in part.by_head.values())
        total += _output_parameters(part.attention_output, rows)
    if layer.channels and part.ffn_down is not None:
        ups = [up for up in (part.ffn_gate, part.ffn_up) if up is not None]
        total += len(layer.channels) * sum(up.parameters_each for up in ups)
        total += _output_parameters(part.ffn_down, len(layer.channels))
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
    total = length * (4 * width * context + projections * width * len(layer.channels))
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


def _output_parameters(output: Any, inputs: int) -> int:
    each = int(output.out_features)
    return inputs * each + (each if output.bias is not None else 0)
