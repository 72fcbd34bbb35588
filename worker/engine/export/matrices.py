"""The weight matrices of an exported graph: their names in a recipe, and forms that no quantizer writes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from worker.engine.export.graph import CONTRIB, WORDS

_IN_LAYER = re.compile(
    r"layer\.(\d+)\.(attention\.(?:qkv|kv|query|distance_key)|attention\.output|ffn_up|ffn_down)\b"
)
_PARTS = {"attention.output": "attention.output", "ffn_up": "ffn.input", "ffn_down": "ffn.output"}


def matrix_name(weight: str, layers: Sequence[int]) -> str | None:
    """The recipe's name of the matrix that a weight of the graph is of, or None outside the layers.

    `layers` are the dense model's numbers of the graph's layers.
    """
    found = _IN_LAYER.match(weight)
    if found is None:
        return None
    return f"layer.{layers[int(found[1])]}.{_PARTS.get(found[2], 'attention.input')}"


def products(graph: onnx.ModelProto) -> dict[str, str]:
    """The weight of every matrix product and attention node that has one, by the node's name."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    return {
        node.name: node.input[1]
        for node in graph.graph.node
        if node.op_type in ("MatMul", "Attention") and node.input[1] in weights
    }


def split_attention(graph: onnx.ModelProto, names: Collection[str]) -> None:
    """Take the projections out of fused attention nodes, in place: they become plain matrix products.

    Only such have forms other than int8, and static ones.
    """
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        nodes.extend(_apart(node) if node.op_type == "Attention" and node.name in names else [node])
    replace_nodes(graph, nodes)


def store_in_half(graph: onnx.ModelProto, names: Collection[str]) -> None:
    """Keep weights as fp16 in the file, in place; the runtime widens them once, when it loads it."""
    from onnxruntime.transformers.float16 import convert_np_to_float16

    casts = []
    for tensor in graph.graph.initializer:
        if tensor.name in names:
            # Beyond fp16's range is cut to it; other options of the function are for tiny values.
            half = convert_np_to_float16(numpy_helper.to_array(tensor))
            narrow = f"{tensor.name}.fp16"
            name = f"Widen.{tensor.name}"
            casts.append(helper.make_node("Cast", [narrow], [tensor.name], name=name, to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(half, narrow))
    replace_nodes(graph, [*casts, *graph.graph.node])


def word_gathers(graph: onnx.ModelProto) -> list[str]:
    """The nodes that look words up."""
    return [node.name for node in graph.graph.node if node.op_type == "Gather" and node.input[0] == WORDS]


def replace_nodes(graph: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Let the graph have these nodes, some of which it may have had before, in this order."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.graph.node[:]
    graph.graph.node.extend(kept)


def _apart(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    hidden, weight, bias, mask = node.input
    heads = _attributes(node)["num_heads"]
    product, joined = f"{node.name}.product", f"{node.name}.joined"
    parts = [f"{node.name}.{part}" for part in ("query", "key", "value")]
    return [
        helper.make_node("MatMul", [hidden, weight], [product], name=product),
        helper.make_node("Add", [product, bias], [joined], name=joined),
        helper.make_node("Split", [joined], parts, name=f"{node.name}.split", axis=-1, num_outputs=3),
        helper.make_node(
            "MultiHeadAttention",
            [*parts, "", mask],
            list(node.output),
            name=node.name,
            domain=CONTRIB,
            num_heads=heads,
        ),
    ]


def _attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
