"""The significance map: layers by heads and by weight groups, as tables whose cells are coloured in steps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.engine.report.schema import HeadAttention

STEPS = (1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the largest loss change of a map; few elements weigh most
ATTENTION_STEPS = (0.1, 0.25, 0.5, 0.75, 0.9)  # of a head's attention: where steps 1 to 5 begin
Element = Mapping[str, Any]


@dataclass(frozen=True)
class HeatCell:
    """`step`: 0 for next to nothing to 5, or -1 where the loss falls without the element. `standard_error` of
    the loss change, over the rows that it was measured on."""

    element: str
    loss_change: float
    standard_error: float
    milliseconds: float
    step: int


@dataclass(frozen=True)
class HeatRow:
    """A layer; cells are None where it has no such element. `block` is the whole of its heads or groups."""

    layer: int
    cells: tuple[HeatCell | None, ...]
    block: HeatCell | None


@dataclass(frozen=True)
class HeatMap:
    """`columns` number the heads or groups; `bounds` are the loss changes at which steps 1 to 5 begin."""

    rows: tuple[HeatRow, ...]
    columns: tuple[int, ...]
    bounds: tuple[float, ...]


def heat_map(elements: Sequence[Element], kind: str, block: str) -> HeatMap:
    """Of the elements of a `kind` ("head", "group"), with those of kind `block` beside their layer."""
    layers = sorted({each["layer"] for each in elements if each["kind"] in (kind, block)})
    fine = {layer: [each for each in elements if _is(each, kind, layer)] for layer in layers}
    whole = {layer: next((each for each in elements if _is(each, block, layer)), None) for layer in layers}
    width = max((len(row) for row in fine.values()), default=0)
    largest = max((each["loss_change"] for row in fine.values() for each in row), default=0.0)
    bounds = tuple(step * max(largest, 0.0) for step in STEPS)
    blocks = [each["loss_change"] for each in whole.values() if each is not None]
    block_bounds = tuple(step * max([0.0, *blocks]) for step in STEPS)
    return HeatMap(
        rows=tuple(
            HeatRow(
                layer,
                tuple(_cell(each, bounds) for each in fine[layer]) + (None,) * (width - len(fine[layer])),
                None if (found := whole[layer]) is None else _cell(found, block_bounds),
            )
            for layer in layers
        ),
        columns=tuple(range(width)),
        bounds=bounds,
    )


def layer_cells(elements: Sequence[Element]) -> tuple[HeatCell, ...]:
    """Whole layers, each removed on its own."""
    layers = [each for each in elements if each["kind"] == "layer"]
    largest = max((each["loss_change"] for each in layers), default=0.0)
    return tuple(_cell(each, tuple(step * max(largest, 0.0) for step in STEPS)) for each in layers)


@dataclass(frozen=True)
class AttentionCell:
    """A head, and the step (0 to 5) of its attention to special tokens and to the token itself."""

    head: HeadAttention
    step: int

    @property
    def part(self) -> float:
        """Of its attention, that to special tokens and to the token itself."""
        return self.head.special + self.head.current


def attention_rows(heads: Sequence[HeadAttention]) -> dict[int, tuple[AttentionCell | None, ...]]:
    """By layer: a cell for every number of a head, None where the layer has no such head."""
    width = max((each.head for each in heads), default=-1) + 1
    rows: dict[int, list[AttentionCell | None]] = {}
    for each in heads:
        step = bisect_right(ATTENTION_STEPS, each.special + each.current)
        rows.setdefault(each.layer, [None] * width)[each.head] = AttentionCell(each, step)
    return {layer: tuple(cells) for layer, cells in sorted(rows.items())}


def _is(element: Element, kind: str, layer: int) -> bool:
    return bool(element["kind"] == kind and element["layer"] == layer)


def _cell(element: Element, bounds: Sequence[float]) -> HeatCell:
    change = float(element["loss_change"])
    step = -1 if change < 0 else bisect_right(bounds, change) if any(bounds) else 0
    error, milliseconds = float(element["standard_error"]), float(element["milliseconds"])
    return HeatCell(element["id"], change, error, milliseconds, step)
