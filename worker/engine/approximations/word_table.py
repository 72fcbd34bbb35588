"""The table of word embeddings, quantized a few rows at a time by ONNX Runtime's own arithmetic.

Half of a small model is this table, and ONNX Runtime's quantizers, which take a weight as a whole, have
several float copies of it at once. So they are given two rows that tell them what they find out about all of
them (the scale, and which nodes read it), and then the table goes through the functions that they use
themselves, piece by piece: the file is the same to the last bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # who only reads recipes needs no ONNX
    from worker.engine.export.onnx_file import StoredTable

ROWS = 2048
INT4_AXIS = 1
"""Blocks of values that share a scale lie along a row."""


def leave_extremes(graph: Any, name: str, table: StoredTable) -> None:
    """In the place of the table `name` of an ONNX graph, in place: its largest value in one row, its smallest
    in another."""
    from onnx import numpy_helper

    largest, smallest = -np.inf, np.inf
    for rows in table.pieces(ROWS):
        largest, smallest = max(largest, rows.max()), min(smallest, rows.min())
    width = table.shape[1]
    rows = np.array([[largest] * width, [smallest] * width], dtype=np.float32)
    _weight(graph, name).CopyFrom(numpy_helper.from_array(rows, name))


def put_back(path: Path, name: str, table: StoredTable, block_size: int | None) -> None:
    """Complete the file at `path`, in which ONNX Runtime has quantized what `leave_extremes` left.

    `block_size`: of the int4 form; None where the table is int8.
    """
    import onnx

    from worker.engine.export.onnx_file import save_graph

    graph = onnx.load(path)
    if block_size is None:
        _fill_bytes(graph, name, table)
    else:
        _fill_int4(graph, name, table, block_size)
    save_graph(graph, path)


def look_up_plainly(path: Path, name: str) -> None:
    """Rewrite the file at `path` so that its int4 table is read by standard operators, with the same answers.

    Of 12 tokens 384 values wide ONNX Runtime's GatherBlockQuantized takes 0.21 ms, a tenth of a call of a
    small int8 model, and of 64 tokens 1.05 ms; what is written here takes 0.03 and 0.07 (a Xeon at 2.5 GHz).
    A byte then holds a value of its row's first half in the low bits, and one of the second half in the
    others, 8 above what they are.
    """
    import onnx
    from onnx import numpy_helper

    from worker.engine.export.matrices import replace_nodes
    from worker.engine.export.onnx_file import save_graph

    graph = onnx.load(path)
    table, scales = _weight(graph, f"{name}_Q4"), _weight(graph, f"{name}_scales")
    (rows, width), blocks = table.dims, scales.dims[1]
    table.CopyFrom(numpy_helper.from_array(_in_halves(table.raw_data, rows, width), table.name))
    scales.dims.append(1)
    constants: dict[str, NDArray[Any]] = {
        "low_bits": np.array(15, np.uint8),
        "bits": np.array(4, np.uint8),
        "one": np.array(1.0, np.float32),
        "zero": np.array(8, np.uint8),
        "by_block": np.array([0, 0, blocks, width // blocks]),
        "by_row": np.array([0, 0, width]),
    }
    prefix = f"{name}.look_up."
    added = (numpy_helper.from_array(value, f"{prefix}{each}") for each, value in constants.items())
    graph.graph.initializer.extend(added)
    nodes: list[Any] = []
    for node in graph.graph.node:
        plain = node.op_type != "GatherBlockQuantized"
        nodes.extend([node] if plain else _plain_look_up(node, table.name, scales.name, prefix))
    replace_nodes(graph, nodes)
    save_graph(graph, path)


def _plain_look_up(node: Any, table: str, scales: str, prefix: str) -> list[Any]:
    """The nodes in the place of one; `prefix` is that of the constants' names."""
    from onnx import helper

    ids, at = node.input[1], f"{node.name}."
    steps: tuple[tuple[str, list[str], str, dict[str, Any]], ...] = (
        ("Gather", [table, ids], f"{at}packed", {}),
        ("BitwiseAnd", [f"{at}packed", f"{prefix}low_bits"], f"{at}first", {}),
        ("BitShift", [f"{at}packed", f"{prefix}bits"], f"{at}second", {"direction": "RIGHT"}),
        ("Concat", [f"{at}first", f"{at}second"], f"{at}row", {"axis": -1}),
        ("DequantizeLinear", [f"{at}row", f"{prefix}one", f"{prefix}zero"], f"{at}values", {}),
        ("Reshape", [f"{at}values", f"{prefix}by_block"], f"{at}blocks", {}),
        ("Gather", [scales, ids], f"{at}scales", {}),
        ("Mul", [f"{at}blocks", f"{at}scales"], f"{at}scaled", {}),
        ("Reshape", [f"{at}scaled", f"{prefix}by_row"], node.output[0], {}),
    )
    return [
        helper.make_node(kind, given, [made], name=f"{at}{number}", **how)
        for number, (kind, given, made, how) in enumerate(steps)
    ]


def _in_halves(packed: bytes, rows: int, width: int) -> NDArray[np.uint8]:
    """INT4 values of a table, two neighbours a byte, as `look_up_plainly` wants them: (rows, width / 2)."""
    pairs = np.frombuffer(packed, dtype=np.uint8).reshape(rows, width // 2)
    halves = np.empty_like(pairs)
    for first in range(0, rows, ROWS):
        some = pairs[first : first + ROWS]
        values = np.stack([some & 15, some >> 4], axis=2).reshape(len(some), width) ^ 8
        low, high = np.hsplit(values, 2)
        halves[first : first + ROWS] = low | high << 4
    return halves


def _fill_bytes(graph: Any, name: str, table: StoredTable) -> None:
    from onnx import helper, numpy_helper
    from onnxruntime.quantization.quant_utils import TENSOR_NAME_QUANT_SUFFIX, quantize_nparray

    written = _weight(graph, f"{name}{TENSOR_NAME_QUANT_SUFFIX}")
    kind = written.data_type  # with a sign or without, as the quantizer likes what is looked up
    scale, zero_point = (
        numpy_helper.to_array(_weight(graph, f"{name}_{part}")) for part in ("scale", "zero_point")
    )
    values = np.empty(table.shape, dtype=helper.tensor_dtype_to_np_dtype(kind))
    for first, rows in _numbered(table):
        values[first : first + len(rows)] = quantize_nparray(kind, rows, scale, zero_point)
    written.CopyFrom(numpy_helper.from_array(values, written.name))


def _fill_int4(graph: Any, name: str, table: StoredTable, block_size: int) -> None:
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantizer

    packed = bytearray()
    scales = np.empty((table.shape[0], table.shape[1] // block_size), dtype=np.float32)
    for first, rows in _numbered(table):
        with np.errstate(divide="ignore", invalid="ignore"):  # rows of zeros have a scale of zero
            values, scale, _ = DefaultWeightOnlyQuantizer.quantize_ndarray(rows, INT4_AXIS, block_size, True)
        packed += values.tobytes()
        scales[first : first + len(rows)] = scale
    of_values, of_scales = _weight(graph, f"{name}_Q4"), _weight(graph, f"{name}_scales")
    made = helper.make_tensor(of_values.name, TensorProto.INT4, table.shape, bytes(packed), raw=True)
    of_values.CopyFrom(made)
    of_scales.CopyFrom(numpy_helper.from_array(scales, of_scales.name))


def _numbered(table: StoredTable) -> Any:
    """The first row's number with each piece."""
    return ((place * ROWS, rows) for place, rows in enumerate(table.pieces(ROWS)))


def _weight(graph: Any, name: str) -> Any:
    return next(tensor for tensor in graph.graph.initializer if tensor.name == name)
