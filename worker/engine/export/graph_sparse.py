"""Sparse heads in the ONNX graph: what `axforge_sparse_attention.py` computes, in standard operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from worker.engine.export.axforge_attention import (
    AxforgeAttention,
    BucketAttention,
    DisentangledAttention,
    TransformerXLAttention,
)

if TYPE_CHECKING:
    from worker.engine.export.graph import EncoderGraph

BY_HEAD = BucketAttention | DisentangledAttention | TransformerXLAttention
"""Attention in which positions add to each head's scores something of its own."""
LOWEST = float(np.finfo(np.float32).min)
FROM_RANK = -1e9  # every rank of a key that may be chosen lies above


def context(graph: EncoderGraph, module: AxforgeAttention, projected: Sequence[str], bias: str | None) -> str:
    """(batch, queries, heads * size) of a module some of whose heads are sparse, the others soft.

    `projected`: queries, keys and values (batch, tokens, heads * size); `bias` is added to scores.
    """
    named = {head for group in module.sparse for head in group["heads"]}
    soft = [head for head in range(module.heads) if head not in named]
    split = [_by_head(graph, values, module.heads, module.head_size) for values in projected]
    parts, order = [], []
    if soft:
        parts.append(_soft(graph, module, _Own.of(graph, module, split, bias, soft)))
        order += soft
    for group in module.sparse:
        own = _Own.of(graph, module, split, bias, group["heads"])
        parts.append(_sparse(graph, module, own, group["kind"], group["top_k"]))
        order += group["heads"]
    joined = parts[0] if len(parts) == 1 else graph.node("Concat", parts, axis=2)
    if order != sorted(order):
        places = graph.integers(*(order.index(head) for head in range(module.heads)))
        joined = graph.node("Gather", [joined, places], axis=2)
    return graph.node("Reshape", [joined, graph.integers(0, 0, module.heads * module.head_size)])


@dataclass(frozen=True)
class _Own:
    """Queries, keys and values of some heads, (batch, tokens, heads, size), and what is added to scores."""

    heads: int
    projected: Sequence[str]
    bias: str | None

    @staticmethod
    def of(
        graph: EncoderGraph,
        module: AxforgeAttention,
        projected: Sequence[str],
        bias: str | None,
        heads: Sequence[int],
    ) -> _Own:
        if len(heads) == module.heads:
            return _Own(len(heads), projected, bias)
        places = graph.integers(*heads)
        own = [graph.node("Gather", [values, places], axis=2) for values in projected]
        if bias is not None and isinstance(module, BY_HEAD):
            bias = graph.node("Gather", [bias, places], axis=1)
        return _Own(len(heads), own, bias)


def _soft(graph: EncoderGraph, module: AxforgeAttention, own: _Own) -> str:
    width = own.heads * module.head_size
    joined = [graph.node("Reshape", [values, graph.integers(0, 0, width)]) for values in own.projected]
    return _by_head(
        graph, graph.soft_context(own.heads, module.scale, joined, own.bias), own.heads, module.head_size
    )


def _sparse(graph: EncoderGraph, module: AxforgeAttention, own: _Own, kind: str, top_k: int) -> str:
    """(batch, queries, heads, size)."""
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    query, key, value = (
        graph.node("Transpose", [values], perm=order)
        for values, order in zip(own.projected, orders, strict=True)
    )
    mask = graph.masking(own.bias)
    if kind == "hard":
        weights = _hardened(graph, _softmax(graph, module, query, key, mask), top_k)
    else:
        chosen = _best_matches(graph, query, key, mask, top_k)
        if kind == "sign_average":
            weights = _averaged(graph, chosen)
        else:
            weights = _softmax(graph, module, query, key, mask, chosen)
    return graph.node("Transpose", [graph.node("MatMul", [weights, value])], perm=[0, 2, 1, 3])


def _softmax(
    graph: EncoderGraph, module: AxforgeAttention, query: str, key: str, mask: str, chosen: str | None = None
) -> str:
    """(batch, heads, queries, keys); with `chosen`, of the scores that it holds alone."""
    scores = graph.node("Mul", [graph.node("MatMul", [query, key]), graph.number(module.scale)])
    scores = graph.node("Add", [scores, mask])
    if chosen is None:
        return graph.node("Softmax", [scores], axis=-1)
    scores = graph.node("Where", [chosen, scores, graph.number(LOWEST)])
    return graph.node("Where", [chosen, graph.node("Softmax", [scores], axis=-1), graph.number(0.0)])


def _hardened(graph: EncoderGraph, probabilities: str, top_k: int) -> str:
    kept = graph.node("GreaterOrEqual", [probabilities, _last_of_top(graph, probabilities, top_k)])
    return graph.node("Where", [kept, probabilities, graph.number(0.0)])


def _best_matches(graph: EncoderGraph, query: str, key: str, mask: str, top_k: int) -> str:
    ranks = graph.node("MatMul", [_signs(graph, query), _signs(graph, key)])
    ranks = graph.node("Sub", [graph.node("Mul", [ranks, _keys(graph)]), _order(graph)])
    allowed = graph.node("Greater", [mask, graph.number(LOWEST / 4)])
    ranks = graph.node("Where", [allowed, ranks, graph.number(LOWEST)])
    best = graph.node("GreaterOrEqual", [ranks, _last_of_top(graph, ranks, top_k)])
    return graph.node("And", [best, graph.node("Greater", [ranks, graph.number(FROM_RANK)])])


def _averaged(graph: EncoderGraph, chosen: str) -> str:
    weights = graph.node("Cast", [chosen], to=TensorProto.FLOAT)
    count = graph.node("ReduceSum", [weights, graph.integers(-1)], keepdims=1)
    return graph.node("Div", [weights, graph.node("Max", [count, graph.number(1.0)])])


def _signs(graph: EncoderGraph, values: str) -> str:
    positive = graph.node("GreaterOrEqual", [values, graph.number(0.0)])
    return graph.node("Where", [positive, graph.number(1.0), graph.number(-1.0)])


def _last_of_top(graph: EncoderGraph, values: str, top_k: int) -> str:
    """The `top_k`-th largest of each row, or the smallest of a shorter one."""

    def made() -> str:
        length = graph.node("Shape", ["attention_mask"], start=1, end=2)
        return graph.node("Min", [length, graph.integers(top_k)])

    largest, _ = graph.nodes("TopK", [values, graph.once(f"top.{top_k}", made)], ["", ""], axis=-1)
    return graph.node("ReduceMin", [largest, graph.integers(-1)], keepdims=1)


def _keys(graph: EncoderGraph) -> str:
    """How many there are, as a number to multiply by, (1,)."""

    def made() -> str:
        length = graph.node("Shape", ["attention_mask"], start=1, end=2)
        return graph.node("Cast", [length], to=TensorProto.FLOAT)

    return graph.once("keys", made)


def _order(graph: EncoderGraph) -> str:
    """0.0 to length - 1.0, (length,)."""
    return graph.once("order", lambda: graph.node("Cast", [graph.counted()], to=TensorProto.FLOAT))


def _by_head(graph: EncoderGraph, values: str, heads: int, size: int) -> str:
    """(batch, tokens, heads * size) to (batch, tokens, heads, size)."""
    # Quantization asks for the type of what is multiplied, and infers none through fused operators.
    typed = graph.node("Cast", [values], to=TensorProto.FLOAT)
    return graph.node("Reshape", [typed, graph.integers(0, 0, heads, size)])
