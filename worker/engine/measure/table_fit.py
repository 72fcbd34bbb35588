"""From timed stacks of layers to costs of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stack:
    """`depth` equal layers of so many heads and channels, and the milliseconds that a call takes."""

    depth: int
    heads: int
    channels: int
    ms: float = 0.0


@dataclass(frozen=True)
class BlockCosts:
    """Milliseconds of one block by width, widths ascending from 0."""

    head_counts: tuple[int, ...]
    attention_ms: tuple[float, ...]
    channel_counts: tuple[int, ...]
    ffn_ms: tuple[float, ...]


def planned_stacks(heads: int, channels: int, *, depth: int = 4) -> list[Stack]:
    """Stacks that tell apart every width of each block, and the cost of the call itself.

    One kind of block varies while the other has half its width; one full layer alone separates what
    a layer costs from what a call does.
    """
    half = (max(1, heads // 2), max(1, channels // 2))
    head_counts = sorted({0, *(max(1, round(heads * part / 4)) for part in (1, 2, 3, 4)), half[0]})
    channel_counts = sorted({0, *(max(1, round(channels * part / 8)) for part in (1, 2, 4, 6, 8)), half[1]})
    return [
        *(Stack(depth, count, half[1]) for count in head_counts),
        *(Stack(depth, half[0], count) for count in channel_counts if count != half[1]),
        Stack(depth, heads, channels),
        Stack(1, heads, channels),
    ]


def fit(stacks: Sequence[Stack]) -> BlockCosts:
    """Least squares of ms = call + depth * (attention[heads] + ffn[channels]), relative errors.

    The cost of a layer of two bare norms is shared equally by its two blocks. Costs never fall with
    width: where noise says so, neighbours are averaged.
    """
    head_counts = sorted({stack.heads for stack in stacks})
    channel_counts = sorted({stack.channels for stack in stacks})
    matrix = np.zeros((len(stacks), len(head_counts) + len(channel_counts) + 1))
    for row, stack in zip(matrix, stacks, strict=True):
        row[head_counts.index(stack.heads)] = stack.depth
        row[len(head_counts) + channel_counts.index(stack.channels)] = stack.depth
        row[-1] = 1.0
    ms = np.array([stack.ms for stack in stacks])
    solution = np.linalg.lstsq(matrix / ms[:, None], np.ones(len(ms)), rcond=None)[0]
    attention, ffn = solution[: len(head_counts)], solution[len(head_counts) : -1]
    bare = max(0.0, float(attention[0] + ffn[0])) / 2.0
    return BlockCosts(
        tuple(head_counts),
        _costs(attention - attention[0] + bare),
        tuple(channel_counts),
        _costs(ffn - ffn[0] + bare),
    )


def monotone(values: Floats) -> Floats:
    """The closest non-decreasing sequence, by pooling adjacent violators (least squares)."""
    pools = [(float(value), 1) for value in values]
    while any(a[0] > b[0] for a, b in pairwise(pools)):
        at = next(i for i, (a, b) in enumerate(pairwise(pools)) if a[0] > b[0])
        (left, n), (right, m) = pools[at], pools[at + 1]
        pools[at : at + 2] = [((left * n + right * m) / (n + m), n + m)]
    return np.concatenate([np.full(count, value) for value, count in pools])


def _costs(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in monotone(values))
