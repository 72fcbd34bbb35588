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
