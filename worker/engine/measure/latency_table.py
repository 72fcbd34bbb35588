"""What a layer's heads and FFN channels cost in milliseconds on the target, for the search.

The additive table of ZipLM (Kurtic et al. 2023, section 3.2): stacks of equal layers are timed at a
few widths, and a model's time is predicted as a fixed part plus the sum over its blocks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from worker.engine.anatomy.shape import LayerShape, Shape

BlockKind = Literal["attention", "ffn"]
Statistic = Literal["mean", "p50", "p95"]


@dataclass(frozen=True)
class Dimensions:
    """Of the dense model's encoder."""

    hidden_size: int
    head_size: int
    heads: int
    channels: int
    layers: int

    def shape(self) -> Shape:
        """The dense model's shape."""
        return Shape.full(self.layers, self.heads, self.channels)


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per call at the target's batch size, lengths, precision and threads.

    `attention_ms[i]` is the cost of an attention block with `head_counts[i]` heads, norm included;
    likewise `ffn_ms` for `channel_counts`. Both start at 0: only the norm is left. `fixed_ms` is the
    rest (embeddings, classifier, the call itself). `dense_ms` is the dense fp32 model, timed in the
    same turns: predicted speedup is `dense_ms / predict(shape)`.
    """

    head_counts: tuple[int, ...]
    attention_ms: tuple[float, ...]
    channel_counts: tuple[int, ...]
    ffn_ms: tuple[float, ...]
    fixed_ms: float
    dense_ms: float
    p50_over_mean: float
    p95_over_mean: float

    def predict(self, shape: Shape, statistic: Statistic = "mean") -> float:
        """Milliseconds per call of a model of that shape. Hard attention is counted as soft."""
        mean = self.fixed_ms + sum(self._layer_ms(layer) for layer in shape.layers)
        return mean * {"mean": 1.0, "p50": self.p50_over_mean, "p95": self.p95_over_mean}[statistic]

    def block_ms(self, kind: BlockKind, kept: int) -> float:
        """Milliseconds of one block with `kept` heads or channels, between the timed widths linear."""
        if kind == "attention":
            return float(np.interp(kept, self.head_counts, self.attention_ms))
        return float(np.interp(kept, self.channel_counts, self.ffn_ms))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(document: dict[str, Any]) -> LatencyTable:
        """The inverse of `to_json`. Raises KeyError when a key is missing."""
        return LatencyTable(
            head_counts=tuple(document["head_counts"]),
            attention_ms=tuple(document["attention_ms"]),
            channel_counts=tuple(document["channel_counts"]),
            ffn_ms=tuple(document["ffn_ms"]),
            fixed_ms=document["fixed_ms"],
            dense_ms=document["dense_ms"],
            p50_over_mean=document["p50_over_mean"],
            p95_over_mean=document["p95_over_mean"],
        )

    def _layer_ms(self, layer: LayerShape) -> float:
        if not layer.present:
            return 0.0
        return self.block_ms("attention", len(layer.heads)) + self.block_ms("ffn", len(layer.channels))
