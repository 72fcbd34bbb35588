"""What a layer's heads and FFN channels cost in milliseconds on the target, for the search.

The additive table of ZipLM (Kurtic et al. 2023, section 3.2): stacks of layers are timed at a few
widths, and a model's time is predicted as a fixed part plus the sum over its blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from worker.engine.anatomy.shape import LayerShape, Shape

BlockKind = Literal["attention", "ffn"]
Statistic = Literal["mean", "p50", "p95"]
LEAST_PART = 0.01  # of the dense model's milliseconds, that any model is predicted to take


@dataclass(frozen=True)
class Dimensions:
    """Of the dense model's encoder. `form` is how it computes, as `AxforgeConfig` says it, and
    `layer_variants` what is its layers' own. `first_token_only`: its head reads no other token."""

    hidden_size: int
    head_size: int
    heads: int
    channels: int
    layers: int
    form: Mapping[str, Any] = field(default_factory=dict)
    layer_variants: Sequence[Mapping[str, Any]] = ({},)
    first_token_only: bool = True


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
class LatencyTable:
    """Milliseconds per call at the target's batch size, lengths, precision and threads.

    `inner` are the costs of every layer but the last one present, `last` those of that one: an
    export may work out the first token only there. `fixed_ms` is the rest (embeddings, classifier,
    the call itself). `dense_ms` is the dense fp32 model, timed in the same turns: the predicted
    speedup is `dense_ms / predict(shape)`.
    """

    inner: BlockCosts
    last: BlockCosts
    fixed_ms: float
    dense_ms: float
    p50_over_mean: float
    p95_over_mean: float

    def predict(self, shape: Shape, statistic: Statistic = "mean") -> float:
        """Milliseconds per call of a model of that shape. Hard attention is counted as soft.

        Never less than a hundredth of the dense model's: a tiny model's cost is the call itself, which
        timing cannot tell from nothing.
        """
        layers = [layer for layer in shape.layers if layer.present]
        mean = self.fixed_ms + sum(self.inner.layer_ms(layer) for layer in layers[:-1])
        mean += sum(self.last.layer_ms(layer) for layer in layers[-1:])
        mean = max(mean, LEAST_PART * self.dense_ms)
        return mean * {"mean": 1.0, "p50": self.p50_over_mean, "p95": self.p95_over_mean}[statistic]

    def block_ms(self, kind: BlockKind, kept: int) -> float:
        """Milliseconds of one block, not in the last layer, with `kept` heads or channels."""
        return self.inner.block_ms(kind, kept)

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
        )


def _costs(document: dict[str, Any]) -> BlockCosts:
    return BlockCosts(
        tuple(document["head_counts"]),
        tuple(document["attention_ms"]),
        tuple(document["channel_counts"]),
        tuple(document["ffn_ms"]),
    )
