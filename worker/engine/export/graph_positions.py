"""Positions in the ONNX graph's attention: what `AxforgeAttention.placed` does, node by node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from worker.engine.export.axforge_attention import (
    AxforgeAttention,
    BucketAttention,
    DisentangledAttention,
    DistanceBuckets,
    DistanceTable,
    RotaryAttention,
    Sinusoids,
    TransformerXLAttention,
    frequencies,
)

if TYPE_CHECKING:
    from worker.engine.export.graph import EncoderGraph


def placed(
    graph: EncoderGraph, name: str, module: AxforgeAttention, query: str, key: str, *, first: bool
) -> tuple[str, str, str | None]:
    """Queries and keys (batch, tokens, heads * size), and what to add to scores, or None.

    With `first` the queries are of the first token only.
    """
    bias = None
    if isinstance(module, RotaryAttention):
        query, key = (
            _turned(graph, module, values, first=first and values == query) for values in (query, key)
        )
    elif isinstance(module, BucketAttention):
        bias = _bucket_bias(graph, module, first=first)
    elif isinstance(module, DisentangledAttention):
        bias = _disentangled_bias(graph, name, module, query, key, first=first)
    elif isinstance(module, TransformerXLAttention):
        query, bias = _transformer_xl(graph, name, module, query)
    if module.window is not None:
        local = _local_mask(graph, module.window)
        local = _first_query(graph, f"local.{module.window}", local) if first else local
        bias = local if bias is None else graph.node("Add", [bias, local])
    return query, key, bias


def _turned(graph: EncoderGraph, module: RotaryAttention, values: str, *, first: bool) -> str:
    if first:
        return values  # the first token is at position 0, where nothing is turned
    heads, size = module.heads, module.head_size
    one, other = graph.nodes(
        "Split",
        [graph.node("Reshape", [values, graph.integers(0, 0, heads, size)])],
        ["", ""],
        axis=-1,
        num_outputs=2,
    )
    cos, sin = (_angle(graph, module, function) for function in ("Cos", "Sin"))

    def combined(operator: str, plus: str, minus: str) -> str:
        return graph.node(operator, [graph.node("Mul", [plus, cos]), graph.node("Mul", [minus, sin])])

    both = [combined("Sub", one, other), combined("Add", other, one)]
    return graph.node("Reshape", [graph.node("Concat", both, axis=-1), graph.integers(0, 0, heads * size)])


def _angle(graph: EncoderGraph, module: RotaryAttention, function: str) -> str:
    """(length, 1, size / 2)."""

    def made() -> str:
        positions = graph.node("Cast", [graph.counted()], to=TensorProto.FLOAT)
        column = graph.node("Unsqueeze", [positions, graph.integers(1, 2)])
        frequencies = graph.weight(f"relative.frequencies.{module.theta}", module.frequencies())
        return graph.node(function, [graph.node("Mul", [column, frequencies])])

    return graph.once(f"{function}.{module.theta}", made)


def _bucket_bias(graph: EncoderGraph, module: BucketAttention, *, first: bool) -> str:
    """(1, heads, queries, keys)."""
    buckets = graph.relative
    assert isinstance(buckets, DistanceBuckets)

    def made() -> str:
        chosen = _by_distance(graph, buckets.table.weight[buckets.index(_all_distances(graph))])
        return graph.node("Unsqueeze", [graph.node("Transpose", [chosen], perm=[2, 0, 1]), graph.integers(0)])

    bias = graph.once("bias", made)
    if first:
        bias = _first_query(graph, "bias", bias)
    if len(module.dense_heads) == buckets.table.embedding_dim:
        return bias
    return graph.node("Gather", [bias, graph.integers(*module.dense_heads)], axis=1)


def _disentangled_bias(
    graph: EncoderGraph, name: str, module: DisentangledAttention, query: str, key: str, *, first: bool
) -> str:
    """(batch, heads, queries, keys); what the table's rows are projected to is worked out here, once."""
    table = graph.relative
    assert isinstance(table, DistanceTable)

    def made() -> str:
        return _by_distance(graph, table.index(_all_distances(graph)))

    index = graph.once("rows", made)
    if first:
        edges = (graph.integers(0), graph.integers(1), graph.integers(0))
        index = graph.once("rows.first", lambda: graph.node("Slice", [index, *edges]))
    terms = []
    with torch.no_grad():
        if "c2p" in module.terms:
            keys = graph.weight(f"relative.{name}.key", module.position_keys(table.rows()))
            columns = graph.node("Transpose", [keys], perm=[0, 2, 1])
            by_row = graph.node("MatMul", [_by_head(graph, module, query, [0, 2, 1, 3]), columns])
            terms.append(_picked(graph, by_row, index, axis=3))
        if "p2c" in module.terms:
            queries = graph.weight(f"relative.{name}.query", module.position_queries(table.rows()))
            by_row = graph.node("MatMul", [queries, _by_head(graph, module, key, [0, 2, 3, 1])])
            terms.append(_picked(graph, by_row, index, axis=2))
    total = terms[0] if len(terms) == 1 else graph.node("Add", terms)
    return graph.node("Mul", [total, graph.number(module.scale)])


def _transformer_xl(
    graph: EncoderGraph, name: str, module: TransformerXLAttention, query: str
) -> tuple[str, str]:
    """Queries as they meet content, and (batch, heads, queries, keys) to add to scores, of all tokens."""
    with torch.no_grad():
        vectors = module.head_vectors()
    split = _by_head(graph, module, query, [0, 2, 1, 3])

    def with_vector(values: str, operator: str, number: int) -> str:
        vector = graph.weight(f"relative.{name}.vector.{number}", vectors[number])
        return graph.node(operator, [values, vector])

    keys = graph.linear(f"{name}.distance_key", _sinusoids(graph), module.distance_key)
    columns = _by_head(graph, module, keys, [0, 2, 3, 1])
    by_row = graph.node("MatMul", [with_vector(split, "Add", module.TO_DISTANCE), columns])
    bias = _picked(graph, by_row, graph.once("rows", lambda: _rows_of_sinusoids(graph)), axis=3)
    if graph.token_types:
        to_segment = with_vector(split, "Add", module.TO_SEGMENT)
        each = with_vector(to_segment, "Mul", module.OTHER_SEGMENT)
        score = graph.node("ReduceSum", [each, graph.integers(-1)], keepdims=1)
        is_other = graph.once("other_segment", lambda: _other_segment(graph))
        bias = graph.node("Add", [bias, graph.node("Mul", [score, is_other])])
    content = graph.weight(f"relative.{name}.content", vectors[module.TO_CONTENT].flatten())
    return graph.node("Add", [query, content]), graph.node("Mul", [bias, graph.number(module.scale)])


def _sinusoids(graph: EncoderGraph) -> str:
    """What `Sinusoids` gives for each distance, (1, 2 * length - 1, width)."""
    sinusoids = graph.relative
    assert isinstance(sinusoids, Sinusoids)

    def made() -> str:
        length = _length(graph)
        away = graph.node("Range", [graph.node("Sub", [graph.scalar(1), length]), length, graph.scalar(1)])
        column = graph.node(
            "Unsqueeze", [graph.node("Cast", [away], to=TensorProto.FLOAT), graph.integers(0, 2)]
        )
        each = graph.weight("relative.frequencies", frequencies(sinusoids.BASE, sinusoids.width))
        angles = graph.node("Mul", [column, each])
        return graph.node("Concat", [graph.node("Sin", [angles]), graph.node("Cos", [angles])], axis=-1)

    return graph.once("sinusoids", made)


def _rows_of_sinusoids(graph: EncoderGraph) -> str:
    """(length, length)."""
    last = graph.node("Sub", [_length(graph), graph.scalar(1)])
    return graph.node("Add", [_distances(graph), last])


def _other_segment(graph: EncoderGraph) -> str:
    """1 where query and key are of different segments, else 0, (batch, 1, length, length)."""
    rows, columns = (graph.node("Unsqueeze", ["token_type_ids", graph.integers(1, axis)]) for axis in (3, 2))
    same = graph.node("Equal", [rows, columns])
    return graph.node("Cast", [graph.node("Not", [same])], to=TensorProto.FLOAT)


def _length(graph: EncoderGraph) -> str:
    return graph.once("length", lambda: graph.node("Size", [graph.counted()]))


def _by_head(graph: EncoderGraph, module: AxforgeAttention, values: str, order: list[int]) -> str:
    """(batch, tokens, heads * size) as (batch, tokens, heads, size), in another order."""
    # Quantization asks for the type of what is multiplied, and infers none through fused operators.
    typed = graph.node("Cast", [values], to=TensorProto.FLOAT)
    split = graph.node("Reshape", [typed, graph.integers(0, 0, module.heads, module.head_size)])
    return graph.node("Transpose", [split], perm=order)


def _picked(graph: EncoderGraph, by_row: str, index: str, *, axis: int) -> str:
    """Products with rows, which lie along `axis`, for each query and key: as `index` (queries, keys) says."""
    leading = graph.node("Shape", [by_row], start=0, end=2)
    shape = graph.node("Concat", [leading, graph.node("Shape", [index])], axis=0)
    return graph.node("GatherElements", [by_row, graph.node("Expand", [index, shape])], axis=axis)


def _local_mask(graph: EncoderGraph, window: int) -> str:
    """(1, 1, length, length): 0 within the window, else the lowest number."""

    def made() -> str:
        away = graph.node("Abs", [_distances(graph)])
        far = graph.node("Cast", [graph.node("Greater", [away, graph.scalar(window)])], to=TensorProto.FLOAT)
        lowest = graph.node("Mul", [far, graph.number(float(np.finfo(np.float32).min) / 2)])
        return graph.node("Unsqueeze", [lowest, graph.integers(0, 1)])

    return graph.once(f"local.{window}", made)


def _distances(graph: EncoderGraph) -> str:
    """query - key, (length, length)."""

    def made() -> str:
        counted = graph.counted()
        column = graph.node("Unsqueeze", [counted, graph.integers(1)])
        return graph.node("Sub", [column, graph.node("Unsqueeze", [counted, graph.integers(0)])])

    return graph.once("distances", made)


def _by_distance(graph: EncoderGraph, values: Tensor) -> str:
    """Of values for `_all_distances` those of each query and key, (length, length, ...)."""
    last = graph.config.max_position_embeddings - 1
    place = graph.node("Add", [_distances(graph), graph.scalar(last)])
    index = graph.node("Unsqueeze", [place, graph.integers(2)])
    # Not Gather, of which quantization would take the table to 8 bits for nothing.
    return graph.node("GatherND", [graph.weight("relative.by_distance", values), index])


def _all_distances(graph: EncoderGraph) -> Tensor:
    longest = int(graph.config.max_position_embeddings)
    return torch.arange(1 - longest, longest)


def _first_query(graph: EncoderGraph, name: str, bias: str) -> str:
    """Of (batch, heads, queries, keys) the first query's, (batch, heads, 1, keys)."""
    edges = (graph.integers(0), graph.integers(1), graph.integers(2))
    return graph.once(f"{name}.first", lambda: graph.node("Slice", [bias, *edges]))
