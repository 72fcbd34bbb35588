"""What sparse heads cost beyond soft ones, as part of a latency table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from worker.engine.anatomy.shape import LayerShape
from worker.engine.approximations.sparse_heads import SparseKind


@dataclass(frozen=True)
class SparseCosts:
    """Milliseconds that sparse heads add to a layer, by kind, for each of `head_counts` of them.

    `last_ms` is of the last layer present, where an export may work out the first token only. Measured
    with one `top_k`, and taken for all. A kind that was not measured counts as soft.
    """

    head_counts: tuple[int, ...]
    inner_ms: Mapping[SparseKind, tuple[float, ...]]
    last_ms: Mapping[SparseKind, tuple[float, ...]]

    def of(self, layer: LayerShape, *, last: bool) -> float:
        """Of all sparse heads of a layer; linear between the counts that were timed."""
        table = self.last_ms if last else self.inner_ms
        return sum(
            float(np.interp(count, (0, *self.head_counts), (0.0, *table[kind])))
            for kind, count in _counted(layer).items()
            if kind in table
        )

    def scaled(self, factor: float) -> SparseCosts:
        """All costs times `factor`."""
        tables = (
            {kind: tuple(factor * each for each in ms) for kind, ms in table.items()}
            for table in (self.inner_ms, self.last_ms)
        )
        return SparseCosts(self.head_counts, *tables)

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> SparseCosts:
        """The inverse of `dataclasses.asdict`."""
        tables = (
            {kind: tuple(ms) for kind, ms in document[name].items()} for name in ("inner_ms", "last_ms")
        )
        return SparseCosts(tuple(document["head_counts"]), *tables)


def _counted(layer: LayerShape) -> dict[SparseKind, int]:
    counts: dict[SparseKind, int] = {}
    for each in layer.sparse:
        counts[each.kind] = counts.get(each.kind, 0) + (each.head in layer.heads)
    return counts
