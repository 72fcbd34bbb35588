"""What a model is expected to cost whose masks are not yet decided, with a gradient.

Parameters and multiply-accumulates are the formulas of `anatomy.costs`; bytes those of the search's cost
model; milliseconds the latency table's, between whose timed widths lines are drawn anyhow. All are exact
where every mask is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from worker.engine.anatomy import Anatomy, Shape
from worker.engine.anatomy.costs import Amounts, LayerAmounts, model_macs, model_parameters
from worker.engine.measure.latency_table import LEAST_PART, BlockCosts, BlockKind, LatencyTable, NarrowCosts
from worker.engine.measure.layer_size import LayerSize
from worker.engine.strategies.goal import LEAST_FILE

CostName = Literal["ms", "bytes", "parameters", "macs"]
LEAST_PRESENT = 1e-6  # below that a layer's widths are not told from nothing


@dataclass(frozen=True)
class Bound:
    """A model may cost `limit` at most, where nothing is removed it costs `whole`."""

    cost: CostName
    limit: float
    whole: float

    @property
    def reduction(self) -> float:
        """The part that has to go: the sparsity aimed at, 0 or less where the bound holds already."""
        return 1.0 - self.limit / self.whole

    def room(self, cost: float) -> float:
        """The part of the limit that a model of that cost leaves; below 0 where it does not hold."""
        return 1.0 - cost / self.limit


@dataclass(frozen=True)
class FileBytes:
    """Bytes of a file: `whole_bytes` less what the model lacks of the `whole` shape.

    That is `per_parameter` for every parameter, `outside_more` besides for one that is in no layer, and for
    layers what `beside` says.
    """

    whole: Shape
    whole_bytes: float
    per_parameter: float
    outside_more: float = 0.0
    beside: LayerSize | None = None

    def of(self, anatomy: Anatomy, left: Amounts) -> Tensor:
        """A scalar, of a model of which so much is left."""
        whole = Amounts.of(anatomy, anatomy.checked(self.whole))
        lost = self.per_parameter * (model_parameters(anatomy, whole) - model_parameters(anatomy, left))
        outside = [model_parameters(anatomy, replace(each, run={}, stored={})) for each in (whole, left)]
        lost = lost + self.outside_more * (outside[0] - outside[1])
        if self.beside is not None:
            lost = lost + _beside(self.beside, whole) - _beside(self.beside, left)
        return torch.as_tensor(self.whole_bytes - lost).clamp_min(LEAST_FILE * self.whole_bytes)


@dataclass(frozen=True)
class ExpectedCosts:
    """All costs of a model in the precision that is delivered; `scale` is what the table's milliseconds are
    multiplied by, `length` the tokens of one example."""

    anatomy: Anatomy
    table: LatencyTable
    scale: float
    file: FileBytes
    length: int

    def of(self, cost: CostName, left: Amounts) -> Tensor:
        """A scalar: milliseconds, bytes, parameters or multiply-accumulates."""
        match cost:
            case "ms":
                value = self.scale * expected_milliseconds(self.table, left)
            case "bytes":
                value = self.file.of(self.anatomy, left)
            case "parameters":
                value = model_parameters(self.anatomy, left)
            case "macs":
                value = model_macs(self.anatomy, left, self.length)
        return torch.as_tensor(value)

    def exactly(self, cost: CostName, shape: Shape) -> float:
        """Of a shape."""
        return float(self.of(cost, _tensors(Amounts.of(self.anatomy, self.anatomy.checked(shape)))))


def expected_milliseconds(table: LatencyTable, left: Amounts) -> Tensor:
    """What `LatencyTable.predict` says, expected: a layer is the last one as far as it stays and all behind
    it go. Amounts are scalar tensors; sparse heads are not among them."""
    total, none_behind = torch.tensor(table.fixed_ms), torch.tensor(1.0)
    for index in sorted(left.run, reverse=True):
        layer = left.run[index]
        inner, last = (_layer_ms(table, costs, layer, left.width) for costs in (table.inner, table.last))
        total = total + layer.present * ((1.0 - none_behind) * inner + none_behind * last)
        none_behind = none_behind * (1.0 - layer.present)
    return total.clamp_min(LEAST_PART * table.dense_ms)


def _layer_ms(table: LatencyTable, costs: BlockCosts, layer: LayerAmounts, width: Any) -> Tensor:
    """Of a layer that is there."""
    present = torch.as_tensor(layer.present).clamp_min(LEAST_PRESENT)
    total = torch.zeros(())
    blocks: tuple[tuple[BlockKind, Any], ...] = ("attention", layer.heads), ("ffn", layer.channels)
    for kind, amount in blocks:
        kept = amount / present
        ms = _block_ms(costs, kind, kept)
        if table.narrow is not None:
            ms = ms * _narrower(table.narrow, kind, kept, width, _block_ms(table.inner, kind, kept))
        total = total + ms
    return total


def _block_ms(costs: BlockCosts, kind: BlockKind, kept: Tensor) -> Tensor:
    if kind == "attention":
        return interpolated(kept, costs.head_counts, costs.attention_ms)
    return interpolated(kept, costs.channel_counts, costs.ffn_ms)


def _narrower(narrow: NarrowCosts, kind: BlockKind, kept: Tensor, width: Any, whole_ms: Tensor) -> Tensor:
    """`NarrowCosts.factor`, with a gradient."""
    if float(whole_ms.detach()) <= 0.0:
        return torch.ones(())
    ratio = (_block_ms(narrow.costs, kind, kept) / whole_ms).clamp(narrow.narrow / narrow.whole, 1.0)
    factor: Tensor = 1.0 - (1.0 - ratio) * (narrow.whole - width) / (narrow.whole - narrow.narrow)
    part = torch.as_tensor(width) / narrow.whole
    if float(part.detach()) < narrow.narrow / narrow.whole:
        factor = torch.maximum(part, factor)
    return factor


def interpolated(at: Tensor, places: Sequence[float], values: Sequence[float]) -> Tensor:
    """`numpy.interp` of a scalar, with a gradient: the slope of the line it lies on."""
    if len(places) == 1:
        return torch.tensor(float(values[0]))
    xs = torch.tensor([float(place) for place in places])
    ys = torch.tensor([float(value) for value in values])
    right = int(torch.searchsorted(xs, float(at.detach())).clamp(1, len(places) - 1))
    part = ((at - xs[right - 1]) / (xs[right] - xs[right - 1])).clamp(0.0, 1.0)
    return ys[right - 1] + part * (ys[right] - ys[right - 1])


def _beside(size: LayerSize, left: Amounts) -> Any:
    return sum(
        size.bare * layer.present
        + size.attention * layer.attention
        + size.head * layer.heads
        + size.ffn * layer.ffn
        + size.channel * layer.channels
        for layer in left.stored.values()
    )


def _tensors(left: Amounts) -> Amounts:
    """Exact numbers as the tensors that `expected_milliseconds` works with."""

    def exact(amount: Any) -> Tensor:
        return torch.tensor(amount, dtype=torch.float64)

    def as_tensor(layer: LayerAmounts) -> LayerAmounts:
        return replace(
            layer,
            heads=exact(layer.heads),
            kv_heads=exact(layer.kv_heads),
            channels=exact(layer.channels),
            attention=exact(layer.attention),
            ffn=exact(layer.ffn),
            present=exact(layer.present),
        )

    return replace(
        left,
        width=exact(left.width),
        run={index: as_tensor(layer) for index, layer in left.run.items()},
        stored={index: as_tensor(layer) for index, layer in left.stored.items()},
    )
