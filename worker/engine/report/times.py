"""Where a call's milliseconds go, by the latency table that the search used."""

from __future__ import annotations

from collections.abc import Iterator

from worker.engine.anatomy.shape import Shape
from worker.engine.measure.latency_table import LatencyTable
from worker.engine.report.schema import Milliseconds, PartMilliseconds


def milliseconds(
    table: LatencyTable, full: Shape, left: Shape, *, dense: float, whole: float, optimized: float
) -> Milliseconds:
    """Parts of the table for both shapes, scaled so that the full shape takes the measured `whole`.

    `dense`, `whole` and `optimized` are measured milliseconds a call, see `schema.Milliseconds`.
    """
    scale = whole / table.predict(full)
    before, after = dict(_blocks(table, full)), dict(_blocks(table, left))
    parts = [
        PartMilliseconds(
            part="attention" if kind == "attention" else "ffn",
            layer=layer,
            whole=scale * ms,
            optimized=scale * after.get((layer, kind), 0.0),
        )
        for (layer, kind), ms in before.items()
    ]
    rest = scale * table.fixed_ms
    parts.append(PartMilliseconds(part="rest", layer=None, whole=rest, optimized=rest))
    return Milliseconds(dense=dense, whole=whole, optimized=optimized, parts=tuple(parts))


def _blocks(table: LatencyTable, shape: Shape) -> Iterator[tuple[tuple[int, str], float]]:
    present = [number for number, layer in enumerate(shape.layers) if layer.present]
    for number in present:
        layer = shape.layers[number]
        costs = table.last if number == present[-1] else table.inner
        yield (number, "attention"), costs.block_ms("attention", len(layer.heads))
        yield (number, "ffn"), costs.block_ms("ffn", len(layer.channels))
