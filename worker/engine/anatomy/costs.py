"""What a model costs: parameters, and multiply-accumulates, by how much is left of its parts.

How much is left is a number, or a scalar tensor where it is only expected to be left: the same formulas give
both the exact costs of a shape and the expected ones of masks that are being trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from worker.engine.anatomy.families import LayerParts, Rows
from worker.engine.anatomy.groups import BY_KV_HEAD, kv_heads
from worker.engine.anatomy.heads import BY_TOKEN, HeadKind
from worker.engine.anatomy.hidden import BESIDE, outside_parameters
from worker.engine.anatomy.shape import LayerShape, Shape

if TYPE_CHECKING:
    from worker.engine.anatomy.base import Anatomy

Amount: TypeAlias = Any
"""An int, a float, or a scalar tensor."""


@dataclass(frozen=True)
class LayerAmounts:
    """How much is left of a layer. `attention`, `ffn` and `present` are 1 where there is any of the block, or
    of the layer, and 0 where there is none; heads and channels of what is gone are 0."""

    heads: Amount
    kv_heads: Amount
    channels: Amount
    attention: Amount
    ffn: Amount
    present: Amount
    ffn_rank: int | None = None
    compared: int = 0
    """Heads that compare signs by a product of their own (`sign_softmax`)."""

    @staticmethod
    def of(layer: LayerShape, kv_group: int) -> LayerAmounts:
        """Exactly, of a normalised layer."""
        return LayerAmounts(
            heads=len(layer.heads),
            kv_heads=len(kv_heads(layer.heads, kv_group)),
            channels=len(layer.channels),
            attention=int(bool(layer.heads)),
            ffn=int(bool(layer.channels)),
            present=int(layer.present),
            ffn_rank=layer.ffn_rank,
            compared=sum(each.kind == "sign_softmax" for each in layer.sparse),
        )


@dataclass(frozen=True)
class Amounts:
    """How much is left of a model: `width` of the residual stream, vocabulary `rows`, `embedding_rank`.

    `run` are the layers that are computed, by dense index; `stored` those whose weights are kept, of layers
    that share theirs the first.
    """

    width: Amount
    rows: int
    embedding_rank: int | None = None
    run: Mapping[int, LayerAmounts] = field(default_factory=dict)
    stored: Mapping[int, LayerAmounts] = field(default_factory=dict)

    @staticmethod
    def of(anatomy: Anatomy, shape: Shape) -> Amounts:
        """Exactly, of a shape that `anatomy.checked` has normalised."""
        run = {
            part.index: LayerAmounts.of(shape.layers[part.index], anatomy.kv_group)
            for part in anatomy.parts
            if shape.layers[part.index].present
        }
        return Amounts(
            width=anatomy.width(shape),
            rows=anatomy.vocabulary if shape.rows is None else len(shape.rows),
            embedding_rank=shape.embedding_rank,
            run=run,
            stored={index: layer for index, layer in run.items() if shape.leads(index)},
        )


def model_parameters(anatomy: Anatomy, left: Amounts) -> Amount:
    """Parameters, embeddings included."""
    pre_norm = anatomy.form.get("norm_placement") == "pre"
    total = outside_parameters(anatomy, left.width)
    if anatomy.kind == "causal" and not anatomy.tied_head:
        total = total + left.rows * left.width
    total = total + matrix_values(left.rows, _embedding_width(anatomy, left), left.embedding_rank)
    for part in anatomy.parts:
        if part.index in left.stored:
            layer = left.stored[part.index]
            total = total + layer_parameters(part, layer, left.width, anatomy.head_size, pre_norm=pre_norm)
    return total


def model_macs(anatomy: Anatomy, left: Amounts, length: int) -> Amount:
    """Multiply-accumulates for one sequence of `length` tokens; see `Anatomy.macs`."""
    total = _outside_macs(anatomy, left, length)
    total = total + length * left.width * (anatomy.form.get("embedding_size") or 0)
    total = total + length * _embedding_width(anatomy, left) * (left.embedding_rank or 0)
    for layer in left.run.values():
        total = total + layer_macs(anatomy.form, left.width, anatomy.head_size, layer, length)
    return total


def layer_parameters(
    part: LayerParts, layer: LayerAmounts, width: Amount, head_size: int, *, pre_norm: bool
) -> Amount:
    """Parameters of a layer that keeps so much of what `part` has, of hidden states so wide.

    A norm that comes before its block goes with it; one that comes after it stays.
    """
    total: Amount = 0
    if part.attention_output is not None:
        for name, up in part.by_head.items():
            outputs = (layer.kv_heads if name in BY_KV_HEAD else layer.heads) * head_size
            total = total + _parameters(up, up.inputs if name in BESIDE else width, outputs, outputs)
        of_heads = sum(norm.numel() for each in part.head_norms.values() for norm in each.parameters())
        total = total + layer.attention * of_heads
        output = Rows(part.attention_output)
        total = total + _parameters(output, layer.heads * head_size, width, layer.attention * width)
    if part.ffn_down is not None:
        channels, rank = layer.channels, layer.ffn_rank
        for up in part.ffn_ups:
            total = total + _parameters(up, width, channels, channels, rank, layer.ffn)
        total = total + _parameters(Rows(part.ffn_down), channels, width, layer.ffn * width, rank, layer.ffn)
    for norm, kept in ((part.attention_norm, layer.attention), (part.ffn_norm, layer.ffn)):
        if norm is not None:
            vectors = sum(1 for _ in norm.parameters())
            total = total + (kept if pre_norm else layer.present) * vectors * width
    return total


def layer_macs(
    form: Mapping[str, Any], width: Amount, head_size: int, layer: LayerAmounts, length: int
) -> Amount:
    """Multiply-accumulates of one layer on one example of `length` tokens.

    `form` tells how the model computes, as `AxforgeConfig` does.
    """
    context, shared = layer.heads * head_size, layer.kv_heads * head_size
    projections = 3 if form.get("ffn") == "gated" else 2
    values = matrix_values(width, layer.channels, layer.ffn_rank)
    ffn = projections * (values if layer.ffn_rank is None else layer.ffn * values)
    total = length * (2 * width * (context + shared) + ffn)
    total = total + 2 * length**2 * context
    # Signs are compared by a product of their own, in the place of scores where no softmax is taken of these.
    total = total + length**2 * layer.compared * head_size
    relative = form.get("relative") or {}
    if relative.get("kind") == "disentangled":
        # Each term projects the table of relative positions, and meets every token with each of its rows.
        total = total + len(relative["terms"]) * 2 * relative["span"] * (width + length) * context
    if relative.get("kind") == "transformer_xl":
        # The same of sinusoids, which have a width of their own.
        total = total + (2 * length - 1) * (relative["width"] + length) * context
    return total


def head_macs(kind: HeadKind, width: Amount, labels: int, length: int, *, dense: bool) -> Amount:
    """Multiply-accumulates of a head on one sequence, of all tokens only where it answers by token.

    `dense`: it has a linear module before that of its logits. `labels`: of a language model the words.
    """
    outputs = {"sequence": labels, "token": labels, "span": 2, "choice": 1, "causal": labels}[kind]
    return (length if kind in BY_TOKEN else 1) * width * (outputs + width * dense)


def matrix_values(one: Amount, other: Amount, rank: int | None) -> Amount:
    """Values of a (one, other) matrix, or of the two that it is a product of."""
    return one * other if rank is None else (one + other) * rank


def _parameters(
    projection: Rows,
    inputs: Amount,
    outputs: Amount,
    biases: Amount,
    rank: int | None = None,
    ranked: Amount = 1,
) -> Amount:
    """Of a projection cut to so many inputs and outputs, and so many of its biases, if it has any.

    `ranked`: 1 where a matrix of low rank is left at all, and 0 where it is not.
    """
    values = matrix_values(inputs, outputs, rank)
    return (values if rank is None else ranked * values) + biases * (projection.bias is not None)


def _embedding_width(anatomy: Anatomy, left: Amounts) -> Amount:
    return anatomy.form.get("embedding_size") or left.width


def _outside_macs(anatomy: Anatomy, left: Amounts, length: int) -> Amount:
    """Of the head."""
    if anatomy.tied_head and left.embedding_rank is not None:
        return length * matrix_values(left.rows, left.width, left.embedding_rank)
    outputs = left.rows if anatomy.kind == "causal" else anatomy.model.config.num_labels
    return head_macs(anatomy.kind, left.width, outputs, length, dense="head.dense" in anatomy.outside)
