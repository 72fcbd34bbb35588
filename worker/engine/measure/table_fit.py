"""From timed stacks of layers to costs of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from worker.engine.measure.latency_table import BlockCosts

Floats = npt.NDArray[np.float64]
QUARTERS = (0.25, 0.5, 0.75, 1.0)
EIGHTH_AND_QUARTERS = (0.125, *QUARTERS)
HALVES = (0.5, 1.0)


@dataclass(frozen=True)
class Stack:
    """`depth` equal layers and the milliseconds of a call; `last`: built as a model's last layer is.

    `hidden`: dimensions of the hidden states; None for the dense model's.
    """

    depth: int
    heads: int
    channels: int
    last: bool = False
    ms: float = 0.0
    hidden: int | None = None


def planned_stacks(heads: int, channels: int, *, depth: int = 3, last: bool = True) -> list[Stack]:
    """Stacks that tell apart every width of each block, and the cost of the call itself.

    One kind of block varies while the other has half its width; one full layer alone separates what
    a layer costs from what a call does. `last` adds single layers built as a model's last one.
    """
    planned = [
        *_crossed(depth, _widths(heads, QUARTERS), _widths(channels, EIGHTH_AND_QUARTERS), last=False),
        Stack(depth, heads, channels),
        Stack(1, heads, channels),
    ]
    if last:
        planned += _crossed(1, _widths(heads, HALVES), _widths(channels, HALVES), last=True)
        planned += [Stack(1, heads, channels, last=True)]
    return list(dict.fromkeys(planned))


def narrow_stacks(heads: int, channels: int, hidden: int, *, depth: int = 3) -> list[Stack]:
    """Stacks that tell apart half and all of each block's width, on hidden states of `hidden` dimensions."""
    planned = [
        *_crossed(depth, _widths(heads, HALVES), _widths(channels, HALVES), last=False),
        Stack(depth, heads, channels),
        Stack(1, heads, channels),
    ]
    return [replace(stack, hidden=hidden) for stack in dict.fromkeys(planned)]


def fit(stacks: Sequence[Stack]) -> tuple[BlockCosts, BlockCosts]:
    """(costs of inner layers, costs of the last one), by least squares of relative errors.

    A stack's time is taken as call + depth * (attention[heads] + ffn[channels]). The cost of a layer
    of two bare norms is shared equally by its two blocks. Costs never fall with width: where noise
    says so, neighbours are averaged. Without stacks of last layers, those cost what inner ones do.
    """
    widths = {
        last: (
            sorted({stack.heads for stack in stacks if stack.last == last}),
            sorted({stack.channels for stack in stacks if stack.last == last}),
        )
        for last in (False, True)
    }
    columns = {
        (last, kind, width): number
        for number, (last, kind, width) in enumerate(
            (last, kind, width) for last in widths for kind in (0, 1) for width in widths[last][kind]
        )
    }
    matrix = np.zeros((len(stacks), len(columns) + 1))
    for row, stack in zip(matrix, stacks, strict=True):
        row[columns[stack.last, 0, stack.heads]] = stack.depth
        row[columns[stack.last, 1, stack.channels]] = stack.depth
        row[-1] = 1.0
    ms = np.array([stack.ms for stack in stacks])
    solution = np.linalg.lstsq(matrix / ms[:, None], np.ones(len(ms)), rcond=None)[0]

    def costs(last: bool) -> BlockCosts:
        counts = widths[last]
        attention, ffn = (
            np.array([solution[columns[last, kind, width]] for width in counts[kind]]) for kind in (0, 1)
        )
        return _block_costs(counts[0], attention, counts[1], ffn)

    inner = costs(False)
    return inner, costs(True) if widths[True][0] else inner


def anchored(whole: float, shallow: float | None, others: float, last: float) -> tuple[float, float]:
    """The factor of all layers' costs, and what is fixed, in milliseconds.

    `whole`: what the whole model takes; `shallow`: what it takes with its last layer alone, where that was
    timed; `others`, `last`: the costs of the other layers and of the last one by the stacks. Both models are
    predicted exactly. Stacks alone make layers too cheap and what is fixed too large, since few layers stay
    in the processor's caches and whole models do not: of MiniLM in int8 they predicted a single layer to be
    5.6 times faster than dense fp32 where it was 8.4.
    """
    most = whole / (others + last)  # layers must not cost more than the model they are part of
    scale = min(most, 1.0)
    if shallow is not None and 0.0 < shallow < whole and others > 0.0:
        scale = min(most, (whole - shallow) / others)
    return scale, max(0.0, whole - scale * (others + last))  # rounding can leave less than nothing


def monotone(values: Floats) -> Floats:
    """The closest non-decreasing sequence, by pooling adjacent violators (least squares)."""
    pools = [(float(value), 1) for value in values]
    while any(a[0] > b[0] for a, b in pairwise(pools)):
        at = next(i for i, (a, b) in enumerate(pairwise(pools)) if a[0] > b[0])
        (left, n), (right, m) = pools[at], pools[at + 1]
        pools[at : at + 2] = [((left * n + right * m) / (n + m), n + m)]
    return np.concatenate([np.full(count, value) for value, count in pools])


def _widths(whole: int, parts: Sequence[float]) -> list[int]:
    return sorted({0, *(max(1, round(whole * part)) for part in parts)})


def _crossed(
    depth: int, head_counts: Sequence[int], channel_counts: Sequence[int], *, last: bool
) -> list[Stack]:
    half_heads = max(1, round(head_counts[-1] * 0.5))
    half_channels = max(1, round(channel_counts[-1] * 0.5))
    return [
        *(Stack(depth, count, half_channels, last) for count in head_counts),
        *(Stack(depth, half_heads, count, last) for count in channel_counts),
    ]


def _block_costs(
    head_counts: Sequence[int], attention: Floats, channel_counts: Sequence[int], ffn: Floats
) -> BlockCosts:
    """Least squares leaves open what is moved from one kind of block to the other: the bare norms decide."""
    bare = max(0.0, float(attention[0] + ffn[0])) / 2.0
    return BlockCosts(
        tuple(head_counts),
        tuple(float(ms) for ms in monotone(attention - attention[0] + bare)),
        tuple(channel_counts),
        tuple(float(ms) for ms in monotone(ffn - ffn[0] + bare)),
    )
