"""Bytes that a layer takes in the exported file, fitted to the files of a latency table's stacks.

Weights are most of it. The rest are biases and norms, which stay fp32, the scales of int8 weights, and the
nodes of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from worker.engine.anatomy.shape import LayerShape


@dataclass(frozen=True)
class LayerSize:
    """A quantity that grows with a layer's parts, such as bytes or parameters: what there is of it in a layer
    without blocks, in an attention block and each of its heads, in an FFN block and each of its channels."""

    bare: float = 0.0
    attention: float = 0.0
    head: float = 0.0
    ffn: float = 0.0
    channel: float = 0.0

    def of(self, layer: LayerShape) -> float:
        """In a layer of that shape; nothing in one that is skipped."""
        if not layer.present:
            return 0.0
        return float(np.dot(astuple(self), _counts(len(layer.heads), len(layer.channels))))

    def less(self, other: LayerSize, factor: float) -> LayerSize:
        """This quantity less `factor` times another one."""
        return LayerSize(
            *(mine - factor * theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        )


@dataclass(frozen=True)
class SizedStack:
    """The file of `depth` equal layers."""

    depth: int
    heads: int
    channels: int
    bytes: int


def fit_layer_size(stacks: Sequence[SizedStack]) -> LayerSize:
    """By least squares: a file is a constant and `depth` layers. Exact but for a few bytes of lengths."""
    rows = [(1.0, *(stack.depth * n for n in _counts(stack.heads, stack.channels))) for stack in stacks]
    sizes = [float(stack.bytes) for stack in stacks]
    return LayerSize(*(float(value) for value in np.linalg.lstsq(np.array(rows), np.array(sizes))[0][1:]))


def _counts(heads: int, channels: int) -> tuple[float, ...]:
    return 1.0, float(heads > 0), float(heads), float(channels > 0), float(channels)
