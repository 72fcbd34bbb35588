"""int8 weights stored in 4 bits: the file has half the bytes, and the products stay those of int8.

Progressive group quantization (QServe, Lin et al. 2024): an int8 weight is approximated by a 4-bit number of
steps times a whole step size, one for every 32 inputs of an output. What a file holds is widened to int8 by
standard operators on constants, which ONNX Runtime works out once, when it loads the file.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Weights along the inputs that share a step size."""
LOWEST, HIGHEST = -8, 7
SIZES = np.array([*range(-8, 0), *range(1, 9)], dtype=np.int32)
"""Step sizes by their place in the file, 4 bits. 8 x 8 is the largest int8 weight: 7 of its bits are used."""
PREFIX = "w4a8."


def in_steps(weight: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Of int8 weights (inputs, outputs) within -64 to 64, the steps and the places of their sizes in `SIZES`.

    Shapes (blocks, 32, outputs), where the last block is filled up with zeros, and (blocks, 1, outputs). Of
    the size at which the largest weight of a block is -8 steps and its two neighbours that with the least
    squared error is taken.
    """
    inputs, outputs = weight.shape
    blocks = np.zeros((-(-inputs // BLOCK), BLOCK, outputs), dtype=np.float32)
    blocks.reshape(-1, outputs)[:inputs] = weight
    most, least = (of(blocks, axis=1, keepdims=True) for of in (np.max, np.min))
    sign = np.where(most > -least, -1, 1)
    whole = np.ceil(np.maximum(most, -least) / -LOWEST)
    best: tuple[NDArray[Any], ...] | None = None
    for change in (0, -1, 1):
        size = sign * np.clip(whole + change, 1, SIZES[-1])
        steps = np.clip(np.rint(blocks / size), LOWEST, HIGHEST)
        error = np.square(steps * size - blocks).sum(axis=1, keepdims=True)
        if best is None:
            best = steps, size, error
        else:
            better = error < best[2]
            pairs = zip((steps, size, error), best, strict=True)
            best = tuple(np.where(better, new, old) for new, old in pairs)
    assert best is not None
    return best[0].astype(np.int8), np.searchsorted(SIZES, best[1]).astype(np.uint8)


def from_steps(steps: NDArray[np.int8], places: NDArray[np.uint8], inputs: int) -> NDArray[np.int8]:
    """The int8 weights (inputs, outputs) that the file stands for."""
    whole = steps * SIZES[places]
    return whole.reshape(-1, whole.shape[2])[:inputs].astype(np.int8)


def store_in_steps(graph: Any, names: Collection[str]) -> None:
    """Keep int8 weights of an ONNX graph so, in place; what reads them reads what they are widened to."""
    from onnx import TensorProto, numpy_helper

    from worker.engine.export.matrices import replace_nodes

    kept: list[Any] = []
    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {}
    for tensor in graph.graph.initializer:
        if tensor.name not in names:
            kept.append(tensor)
            continue
        name, weight = tensor.name, numpy_helper.to_array(tensor)
        inputs, outputs = weight.shape
        steps, places = in_steps(weight)
        kept.append(_packed(f"{name}.steps", steps, TensorProto.INT4))
        kept.append(_packed(f"{name}.steps_scales", places, TensorProto.UINT4))
        made, read = _widened(name, inputs, outputs, f"{PREFIX}{len(nodes)}.")
        nodes += made
        constants |= read
    kept += [numpy_helper.from_array(value, name) for name, value in constants.items()]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    replace_nodes(graph, [*nodes, *graph.graph.node])


def _widened(name: str, inputs: int, outputs: int, own: str) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """The nodes that make the int8 weight `name` of what the file has of it, and the constants that they
    read: all weights of a file share them. Rows that only fill up the last block are left out.

    What is between begins with `own`: names are short, because a small file would be half of names.
    """
    from onnx import TensorProto, helper

    sizes, shape = f"{PREFIX}sizes", f"{PREFIX}by_{outputs}"
    constants = {sizes: SIZES, shape: np.array([-1, outputs])}
    filled = inputs % BLOCK > 0
    rows = f"{own}f" if filled else name
    made: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", [f"{name}.steps"], f"{own}a", {"to": TensorProto.INT32}),
        ("Cast", [f"{name}.steps_scales"], f"{own}b", {"to": TensorProto.INT32}),
        ("Gather", [sizes, f"{own}b"], f"{own}c", {}),
        ("Mul", [f"{own}a", f"{own}c"], f"{own}d", {}),
        ("Cast", [f"{own}d"], f"{own}e", {"to": TensorProto.INT8}),
        ("Reshape", [f"{own}e", shape], rows, {}),
    ]
    if filled:
        first, end = f"{PREFIX}first", f"{PREFIX}rows_{inputs}"
        constants |= {first: np.array([0]), end: np.array([inputs])}
        made.append(("Slice", [rows, first, end], name, {}))
    return [helper.make_node(kind, given, [out], **how) for kind, given, out, how in made], constants


def _packed(name: str, values: NDArray[Any], kind: int) -> Any:
    """A tensor of two 4-bit values a byte, the first in the low bits."""
    from onnx import helper

    flat = values.reshape(-1).view(np.uint8) & 15
    pairs = np.pad(flat, (0, len(flat) % 2)).reshape(-1, 2)
    packed = (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8)
    return helper.make_tensor(name, kind, values.shape, packed.tobytes(), raw=True)
