"""What a layer's heads and FFN channels cost in milliseconds on the target, for the search.

The additive table of ZipLM (Kurtic et al. 2023, section 3.2): stacks of layers are timed at a few
widths, and a model's time is predicted as a fixed part plus the sum over its blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from worker.engine.anatomy.shape import LayerShape, Shape
from worker.engine.measure.layer_size import LayerSize
from worker.engine.measure.sparse_costs import SparseCosts

BlockKind = Literal["attention", "ffn"]
Statistic = Literal["mean", "p50", "p95"]
LEAST_PART = 0.01  # of the dense model's milliseconds, that any model is predicted to take


@dataclass(frozen=True)
class Dimensions:
    """Of the dense model's encoder. `form` is how it computes, as `AxforgeConfig` says it, and
    `layer_variants` what is its layers' own. `first_token_only`: its head reads no other token. `narrower`:
    hidden dimensions may be removed, so that their cost is measured too."""

    hidden_size: int
    head_size: int
    heads: int
    channels: int
    layers: int
    form: Mapping[str, Any] = field(default_factory=dict)
    layer_variants: Sequence[Mapping[str, Any]] = ({},)
    first_token_only: bool = True
    narrower: bool = False

    @property
    def narrow_size(self) -> int:
        """Where layers are timed again: about half the hidden size, a multiple of 16 if it is that large."""
        half = max(1, self.hidden_size // 2)
        return half // 16 * 16 if half >= 16 else half


@dataclass(frozen=True)
class BlockCosts:
    """Milliseconds of one block by width. Widths ascend from 0, where only the norm is left."""

    head_counts: tuple[int, ...]
    attention_ms: tuple[float, ...]
    channel_counts: tuple[int, ...]
    ffn_ms: tuple[float, ...]

    def block_ms(self, kind: BlockKind, kept: int) -> float:
        """Milliseconds of one block with `kept` heads or channels; linear between the timed widths."""
        if kind == "attention":
            return float(np.interp(kept, self.head_counts, self.attention_ms))
        return float(np.interp(kept, self.channel_counts, self.ffn_ms))

    def layer_ms(self, layer: LayerShape) -> float:
        return self.block_ms("attention", len(layer.heads)) + self.block_ms("ffn", len(layer.channels))

    def scaled(self, factor: float) -> BlockCosts:
        """All costs times `factor`."""
        return BlockCosts(
            self.head_counts,
            tuple(factor * ms for ms in self.attention_ms),
            self.channel_counts,
            tuple(factor * ms for ms in self.ffn_ms),
        )


@dataclass(frozen=True)
class NarrowCosts:
    """How the costs of a block change with the hidden width: timed at `whole` and at `narrow` dimensions.

    Products with matrices grow in proportion to the width, attention's scores not at all: a line through
    both says what other widths cost.
    """

    whole: int
    narrow: int
    costs: BlockCosts

    def factor(self, kind: BlockKind, kept: int, width: int, whole_ms: float) -> float:
        """Of a block's milliseconds at the whole width, for one with `kept` heads or channels.

        Never below the proportion of the widths, and never above 1.
        """
        if whole_ms <= 0.0:
            return 1.0
        ratio = self.costs.block_ms(kind, kept) / whole_ms
        ratio = min(1.0, max(ratio, self.narrow / self.whole))
        if width < self.narrow:
            return max(width / self.whole, 1.0 - (1.0 - ratio) * self._gone(width))
        return 1.0 - (1.0 - ratio) * self._gone(width)

    def _gone(self, width: int) -> float:
        return (self.whole - width) / (self.whole - self.narrow)

    def scaled(self, factor: float) -> NarrowCosts:
        """All costs times `factor`."""
        return replace(self, costs=self.costs.scaled(factor))


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per call at the target's batch size, lengths, precision and threads.

    `inner` are the costs of every layer but the last one present, `last` those of that one: an
    export may work out the first token only there. `fixed_ms` is the rest (embeddings, classifier,
    the call itself). `dense_ms` is the dense fp32 model, timed in the same turns: the predicted
    speedup is `dense_ms / predict(shape)`. `narrow` says what fewer hidden dimensions save; without it,
    as for what is fixed, nothing is counted. `sparse`: what sparse heads cost beyond soft ones, where that
    was timed; where it was not, they count as soft. `layer_size`: bytes of an inner layer in the stacks'
    files, None where there are no files.
    """

    inner: BlockCosts
    last: BlockCosts
    fixed_ms: float
    dense_ms: float
    p50_over_mean: float
    p95_over_mean: float
    narrow: NarrowCosts | None = None
    sparse: SparseCosts | None = None
    layer_size: LayerSize | None = None

    def predict(self, shape: Shape, statistic: Statistic = "mean") -> float:
        """Milliseconds per call of a model of that shape.

        Never less than a hundredth of the dense model's: a tiny model's cost is the call itself, which
        timing cannot tell from nothing.
        """
        layers = [layer for layer in shape.layers if layer.present]
        gone = len(shape.hidden_gone)
        mean = self.fixed_ms + sum(self._layer_ms(self.inner, layer, gone) for layer in layers[:-1])
        mean += sum(self._layer_ms(self.last, layer, gone) for layer in layers[-1:])
        if self.sparse is not None:
            final = len(layers) - 1
            mean += sum(self.sparse.of(layer, last=at == final) for at, layer in enumerate(layers))
        mean = max(mean, LEAST_PART * self.dense_ms)
        return mean * {"mean": 1.0, "p50": self.p50_over_mean, "p95": self.p95_over_mean}[statistic]

    def block_ms(self, kind: BlockKind, kept: int) -> float:
        """Milliseconds of one block, not in the last layer, with `kept` heads or channels."""
        return self.inner.block_ms(kind, kept)

    def _layer_ms(self, costs: BlockCosts, layer: LayerShape, gone: int) -> float:
        """With that many hidden dimensions gone. The last layer's blocks gain as much as the others'."""
        if self.narrow is None or not gone:
            return costs.layer_ms(layer)
        blocks: tuple[tuple[BlockKind, int], ...]
        blocks = ("attention", len(layer.heads)), ("ffn", len(layer.channels))
        width = self.narrow.whole - gone
        return sum(
            costs.block_ms(kind, kept)
            * self.narrow.factor(kind, kept, width, self.inner.block_ms(kind, kept))
            for kind, kept in blocks
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(document: dict[str, Any]) -> LatencyTable:
        """The inverse of `to_json`. Raises KeyError when a key is missing."""
        return LatencyTable(
            inner=_costs(document["inner"]),
            last=_costs(document["last"]),
            fixed_ms=document["fixed_ms"],
            dense_ms=document["dense_ms"],
            p50_over_mean=document["p50_over_mean"],
            p95_over_mean=document["p95_over_mean"],
            narrow=_narrow(document.get("narrow")),
            sparse=SparseCosts.from_json(sparse) if (sparse := document.get("sparse")) else None,
            layer_size=None if document["layer_size"] is None else LayerSize(**document["layer_size"]),
        )


def _narrow(document: dict[str, Any] | None) -> NarrowCosts | None:
    if document is None:
        return None
    return NarrowCosts(document["whole"], document["narrow"], _costs(document["costs"]))


def _costs(document: dict[str, Any]) -> BlockCosts:
    return BlockCosts(
        tuple(document["head_counts"]),
        tuple(document["attention_ms"]),
        tuple(document["channel_counts"]),
        tuple(document["ffn_ms"]),
    )
