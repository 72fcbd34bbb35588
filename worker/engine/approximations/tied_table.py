"""Eight bits for a word embedding that is a language model's head too, in one table for both.

ONNX Runtime's quantizer would write it twice, once for the look-up and once for the product. Here each row
has a scale of its own, which suits either use, and both read the same int8 values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 63  # of 7 bits: see `Quantization.write`


def with_int8_table(graph: Any, words: str) -> list[str]:
    """Quantize the table `words` of an ONNX graph, in place; answers the names of nodes that are to stay.

    Nothing is done, and none is named, where no product reads the table.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes = graph.graph.node
    turned = next((node for node in nodes if node.op_type == "Transpose" and words in node.input), None)
    if turned is None:
        return []
    table = next(tensor for tensor in graph.graph.initializer if tensor.name == words)
    values, scales = quantized_rows(numpy_helper.to_array(table))
    graph.graph.initializer.remove(table)
    graph.graph.initializer.extend(
        [
            numpy_helper.from_array(values, words),
            numpy_helper.from_array(scales, f"{words}.scale"),
            numpy_helper.from_array(np.array([-1], dtype=np.int64), "int.last"),
        ]
    )
    gather = next(node for node in nodes if node.op_type == "Gather" and node.input[0] == words)
    product = next(node for node in nodes if node.op_type == "MatMul" and turned.output[0] in node.input)

    def made(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
        return helper.make_node(operator, inputs, outputs, name=f"tied.{outputs[0]}", **attributes)

    looked_up = [
        made("Gather", [words, gather.input[1]], ["words.int8"]),
        made("Gather", [f"{words}.scale", gather.input[1]], ["words.scales"]),
        made("Unsqueeze", ["words.scales", "int.last"], ["words.scale"]),
        made("Cast", ["words.int8"], ["words.cast"], to=TensorProto.FLOAT),
        made("Mul", ["words.cast", "words.scale"], [gather.output[0]]),
    ]
    scored = [
        made("DynamicQuantizeLinear", [product.input[0]], ["head.int8", "head.scale", "head.zero"]),
        made("MatMulInteger", ["head.int8", turned.output[0], "head.zero"], ["head.sums"]),
        made("Cast", ["head.sums"], ["head.cast"], to=TensorProto.FLOAT),
        made("Mul", ["head.scale", f"{words}.scale"], ["head.scales"]),
        made("Mul", ["head.cast", "head.scales"], [product.output[0]]),
    ]
    in_the_place = {gather.name: looked_up, product.name: scored}
    written = [new for node in nodes for new in in_the_place.get(node.name, [node])]
    renewed = helper.make_graph(
        written, graph.graph.name, graph.graph.input, graph.graph.output, graph.graph.initializer
    )
    graph.graph.CopyFrom(renewed)
    return [turned.name, *(node.name for node in (*looked_up, *scored))]


def quantized_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 values (rows, width) and scales (rows,): symmetric, the largest of a row is `LARGEST`."""
    largest = np.abs(table).max(axis=1)
    scales = np.where(largest > 0, largest / LARGEST, 1.0).astype(np.float32)
    return np.rint(table / scales[:, None]).astype(np.int8), scales
