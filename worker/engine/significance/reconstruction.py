"""Least-squares reconstruction after removal: what the task loses by what the others cannot make up for.

When the columns S of an output projection go, the others can take over, by linear least squares, what
they predict of them (K-prune, Park et al. 2024; with one factor a unit, Kwon et al. 2022).
What is lost of an input x is its residual e = ((H^-1)_SS)^-1 (H^-1)_S x, with H = E[x x^T]. Both papers
measure that error in the block's output. Here it is taken where it matters: along the gradient of the
task's loss, as Fisher information takes the whole of x. So an element that moves the loss, but that its
neighbours know as well, weighs little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from worker.engine.anatomy.heads import logits_of
from worker.engine.anatomy.shape import positions
from worker.engine.significance.base import GRADIENT_PASS, Estimator, Material
from worker.engine.significance.elements import Element, group_elements, group_size, head_elements
from worker.engine.significance.obs import channel_errors
from worker.engine.significance.projections import (
    Key,
    OutputProjection,
    OutputProjections,
    kept_columns,
    output_projections,
    tapped,
)
from worker.engine.tasks import Batch

Partition = list[tuple[int, ...]]
"""Units that go together, each in one part at most."""
Lost = tuple[Key, frozenset[int]]
"""Units of a block that go."""
Solved = list[tuple[Tensor, Tensor]]
"""Of each part of a partition its columns, and ((H^-1)_SS)^-1, (own columns, own columns)."""


class Residuals:
    """Gradients of each row's loss along what is lost with some units of a block.

    What the report and the search ask for is worked out at once; any other set of units, when it is first
    asked for, by a pass of its own.
    """

    def __init__(self, material: Material) -> None:
        self._material = material
        self._projections = output_projections(material)
        self._along = _along(material, self._projections, dict(_partitions(material, self._projections)))

    def of(self, element: Element) -> float:
        """1/2 mean_s (g_s . e_s)^2: the empirical Fisher matrix along the removal and its reconstruction."""
        lost = [self._lost(key, units) for key, units in self._projections.units(element)]
        return float(0.5 * np.mean(np.square(np.sum(lost, axis=0))))

    def channel_scores(self, layer: int) -> np.ndarray:
        return channel_errors(self._projections[layer, "ffn"], self._material.anatomy.channels)

    def hidden_scores(self) -> None:
        """Hidden dimensions are no columns of an output projection."""

    def _lost(self, key: Key, units: tuple[int, ...]) -> np.ndarray:
        """Of some units of a block, in whatever order they are named, (rows,)."""
        leader: Key = (self._material.shape.sharing(key[0])[0], key[1])
        asked = leader, frozenset(units)
        if asked not in self._along:
            self._along |= _along(self._material, self._projections, {leader: [[units]]})
        return self._along[asked]


class Reconstruction(Estimator):
    name = "reconstruction"
    source = (
        "least squares of Park et al. 2024 (K-prune) and Kwon et al. 2022, along the gradient of the loss"
    )
    measures = "second-order loss change by what least squares cannot rebuild from the units that stay"
    knows_hidden = False

    def weigh(self, material: Material) -> Residuals:
        return Residuals(material)


def _along(
    material: Material, projections: OutputProjections, partitions: Mapping[Key, Sequence[Partition]]
) -> dict[Lost, np.ndarray]:
    """Gradients of each row's loss along the residuals of all parts of the partitions, (rows,) each.

    Blocks are named by the first layer that has their weights; what all of these layers lose is added up.
    """
    inverses = {key: projections[key].inverse.float() for key in partitions}
    solved = {key: [_solved(projections[key], each) for each in cuts] for key, cuts in partitions.items()}
    totals: dict[Lost, np.ndarray] = {}
    material.count(GRADIENT_PASS)
    for batch in material.rows.batches(material.batch_size):
        for key, inputs, gradients in _gradients(material, batch):
            leader: Key = (material.shape.sharing(key[0])[0], key[1])
            if leader not in partitions:
                continue
            projection, spread = projections[leader], inputs @ inverses[leader].to(inputs)
            for partition, parts in zip(partitions[leader], solved[leader], strict=True):
                lost = _residuals(parts, inputs, spread)
                each = _by_unit(gradients * lost, batch, projection.width)
                for units in partition:
                    total = totals.setdefault((leader, frozenset(units)), np.zeros(len(material.rows)))
                    total[batch.index] += each[:, positions(projection.units, units)].sum(1)
    return totals


def residuals(projection: OutputProjection, partition: Partition, inputs: Tensor) -> Tensor:
    """What the other units cannot tell of each of the partition's; `inputs` and answer (..., columns).

    Of a part that is all units nothing can be told: its residual is the input itself. Units of no part
    have 0.
    """
    return _residuals(_solved(projection, partition), inputs, inputs @ projection.inverse.to(inputs))


def _solved(projection: OutputProjection, partition: Partition) -> Solved | None:
    """What residuals need of each part, worked out once; None of a part that is all units."""
    if any(len(units) == len(projection.units) for units in partition):
        return None
    columns = [projection.columns(units) for units in partition]
    return [(own, torch.linalg.inv(projection.inverse[own][:, own])) for own in columns]


def _residuals(parts: Solved | None, inputs: Tensor, spread: Tensor) -> Tensor:
    """`residuals`; `spread` are the inputs times H^-1, the costly part, one for all partitions of a block."""
    if parts is None:
        return inputs
    lost = torch.zeros_like(inputs)
    for own, inverse in parts:
        lost[..., own] = spread[..., own] @ inverse.to(spread)
    return lost


def _partitions(material: Material, projections: OutputProjections) -> Iterator[tuple[Key, list[Partition]]]:
    """All that elements may ask for: whole blocks, heads, and groups cut contiguously and by their errors."""
    shape, asked = material.shape, material.sizes.ffn
    dense = group_size(material.anatomy.channels, asked)
    for index, layer in enumerate(shape.layers):
        if layer.heads and shape.leads(index):
            heads: Partition = [(element.number,) for element in head_elements(shape, index)]
            yield (index, "attention"), _distinct([layer.heads], heads)
        if layer.channels and shape.leads(index):
            ranking = channel_errors(projections[index, "ffn"], material.anatomy.channels)
            # As the report cuts them, and as narrowing does, in groups of the dense model's size.
            own = group_size(len(layer.channels), asked)
            cuts = (
                [group.channels for group in group_elements(shape, index, size, order)]
                for size, order in ((own, None), (dense, ranking))
            )
            yield (index, "ffn"), _distinct([layer.channels], *cuts)


def _distinct(*partitions: Partition) -> list[Partition]:
    """Each once: the only head of a block is the block."""
    return [partition for at, partition in enumerate(partitions) if partition not in partitions[:at]]


def _gradients(material: Material, batch: Batch) -> Iterator[tuple[Key, Tensor, Tensor]]:
    """Inputs and loss gradients at every output projection: (sequences, length, columns that are left)."""
    anatomy, shape, device = material.anatomy, material.shape, material.device
    anatomy.model.to(device.torch_device).eval().requires_grad_(False)
    # Gates make what comes into the projections require gradients, the first one's too.
    with anatomy.masked(shape), anatomy.gated(), tapped(anatomy, shape) as taps:
        with device.autocast(material.precision):
            logits = logits_of(anatomy.model(**device.put(batch.inputs)))
        loss = material.task.losses(logits.float(), batch).sum()
        if not taps:
            return
        gradients = torch.autograd.grad(loss, list(taps.values()), allow_unused=True, materialize_grads=True)
    for (key, inputs), gradient in zip(taps.items(), gradients, strict=True):
        columns = kept_columns(anatomy, shape, key).to(inputs.device)
        yield key, inputs.detach()[..., columns].float(), gradient[..., columns].float()


def _by_unit(values: Tensor, batch: Batch, width: int) -> np.ndarray:
    """(sequences, length, columns) summed over a row's tokens and a unit's columns: (rows, units)."""
    by_sequence = values.sum(1).unflatten(-1, (-1, width)).sum(-1).cpu()
    rows = by_sequence.new_zeros((len(batch.index), by_sequence.shape[1]))
    return np.asarray(rows.index_add_(0, batch.rows, by_sequence).numpy())
