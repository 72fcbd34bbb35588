"""From trained masks to a shape that keeps to its bounds, and to the recipe that makes it.

Units are ranked by log alpha. The published rule keeps those below 0; here the threshold is searched for, so
that the bounds hold for the exact costs, and what room is left then is filled unit by unit. Widths are
rounded to what the target computes fast, n' = floor((n + T/2) / T) T, and ranked again within that, as in
TVA-Prune, by VTrans' authors; units of a block are then chunks of T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from models.spec import ApproximationName, GroupSizes
from worker.engine.anatomy import Anatomy, Shape
from worker.engine.anatomy.hidden import dimensions
from worker.engine.anatomy.shape import LayerShape
from worker.engine.learned.vib import FOR, Kind, Ranking
from worker.engine.significance.elements import ALIGNMENT, ALL_LAYERS, Element, group_size

Room = Callable[[Shape], float]
"""The part of the tightest bound that a shape leaves: below 0 where it does not hold."""
NEAR = 0.002  # of the tightest bound: with so little room left nothing more is filled in
FAR = 0.01  # what may be left of it at the end
SLICES = 8  # of the removals of units that are nearest to staying
SLICED = 0.25  # of the units that go, which these slices hold
Width = Literal["heads", "channels"]


@dataclass(frozen=True)
class Grain:
    """How many channels, or hidden dimensions, go together; blocks may go whole, or never."""

    channels: int
    hidden: int
    allowed: frozenset[ApproximationName]

    @staticmethod
    def of(anatomy: Anatomy, sizes: GroupSizes, allowed: frozenset[ApproximationName]) -> Grain:
        """As many as the job asks; else `ALIGNMENT` where widths are large enough, and single units where
        they are not."""

        def grain(count: int, asked: int | None) -> int:
            if asked is not None:
                return min(asked, count)
            return ALIGNMENT if group_size(count) >= ALIGNMENT else 1

        return Grain(grain(anatomy.channels, sizes.ffn), grain(anatomy.hidden_size, sizes.hidden), allowed)

    def may(self, kind: Kind) -> bool:
        return FOR[kind] in self.allowed


@dataclass(frozen=True)
class Chosen:
    """A shape, the part of the tightest bound that it leaves, and the elements that go, in slices: what is
    nearest to staying last."""

    shape: Shape
    room: float
    slices: tuple[tuple[Element, ...], ...]


def chosen(anatomy: Anatomy, start: Shape, ranking: Ranking, grain: Grain, room: Room) -> Chosen:
    """The shape within `start` with as many units as bounds have room for, the highest ranked removed.

    Where bounds do not hold with all removed that may be, that shape, whose room is below 0.
    """
    selection = _Selection(anatomy, start, ranking, grain, room)
    left = selection.exchanged(selection.filled(selection.widest()))
    shape = selection.shape(left)
    return Chosen(shape, room(shape), tuple(selection.slices(left)))


def unit_prices(anatomy: Anatomy) -> dict[Kind, float]:
    """Parameters that go with a unit of each kind, beside those of an FFN channel.

    By these its divergence is weighed. The published constants (heads 256, hidden dimensions 25 to 30, layers
    1,000) are of one size of model. Rows of the vocabulary are not counted to a hidden dimension.
    """
    full, whole = anatomy.full_shape(), anatomy.parameters(anatomy.full_shape())
    first = next(index for index in range(len(full.layers)) if full.leads(index))
    layer, held = full.layers[first], dimensions(anatomy, full)

    def lost(element: Element) -> float:
        return float(whole - anatomy.parameters(element.removed_from(full)))

    attention = lost(Element("attention", first)) if layer.heads else 0.0
    ffn = lost(Element("ffn", first)) if layer.channels else 0.0
    channel = max(1.0, ffn / max(1, len(layer.channels)))
    hidden = 0.0
    if len(held) > 1:
        tables = 0 if anatomy.form.get("embedding_size") else anatomy.vocabulary
        hidden = lost(Element("hidden_group", ALL_LAYERS, channels=held[:1])) - tables
    return {
        "channels": 1.0,
        "ffn": ffn / channel,
        "heads": attention / max(1, len(layer.heads)) / channel,
        "attention": attention / channel,
        "layers": (attention + ffn) / channel,
        "hidden": max(1.0, hidden / channel),
    }


@dataclass(frozen=True)
class _Left:
    """How many units stay: of each vector of them the lowest ranked. Layers that share weights share widths,
    by the first of them in the model."""

    layers: frozenset[int]
    heads: Mapping[int, int]
    channels: Mapping[int, int]
    hidden: int

    def width(self, kind: Width) -> Mapping[int, int]:
        return self.heads if kind == "heads" else self.channels

    def with_width(self, kind: Width, leader: int, count: int) -> _Left:
        widths = {**self.width(kind), leader: count}
        return replace(self, heads=widths) if kind == "heads" else replace(self, channels=widths)


WIDTHS: tuple[Width, ...] = ("heads", "channels")
BLOCK_OF: Mapping[Width, Literal["attention", "ffn"]] = {"heads": "attention", "channels": "ffn"}


class _Selection:
    """What is left by thresholds on the ranking, and by filling up."""

    def __init__(self, anatomy: Anatomy, start: Shape, ranking: Ranking, grain: Grain, room: Room) -> None:
        self.ranking, self.grain, self._room = ranking, grain, room
        self.full = start
        self.dimensions = dimensions(anatomy, self.full)
        self.leaders = [index for index in range(len(self.full.layers)) if self.full.leads(index)]

    def widest(self) -> _Left:
        """By the highest threshold at which bounds hold, found by bisection: costs only grow with it."""
        thresholds = np.concatenate([[-np.inf], self.ranking.values(), [np.inf]])
        low, high = 0, len(thresholds) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.room(self.at(float(thresholds[middle]))) >= 0.0:
                low = middle
            else:
                high = middle - 1
        return self.at(float(thresholds[low]))

    def at(self, threshold: float) -> _Left:
        """What stays when all goes whose log alpha is `threshold` or more; never all layers, and never all of
        a block that may not go."""
        layers = [index for index, layer in enumerate(self.full.layers) if layer.present]
        staying = [index for index in layers if self._below("layers", index, threshold, 1)]
        if not staying:
            staying = [min(layers, key=lambda index: self._alpha("layers", index))]
        left = _Left(frozenset(staying), {}, {}, 0)
        for leader in self.leaders:
            for kind in WIDTHS:
                count = len(self._held(kind, leader))
                kept = self._rounded(kind, self._below(kind, leader, threshold, count), count)
                if not self._below(BLOCK_OF[kind], leader, threshold, 1):
                    kept = 0
                left = left.with_width(kind, leader, max(kept, self._least(kind, leader)))
        count = len(self.dimensions)
        hidden = self._rounded("hidden", self._below("hidden", 0, threshold, count), count)
        return replace(left, hidden=max(hidden, min(self.grain.hidden, count)))

    def filled(self, left: _Left) -> _Left:
        """With the lowest ranked of what went back, unit by unit, as far as bounds have room.

        A layer that comes back is empty at first.
        """
        if self.room(left) < 0.0:
            return left
        full: set[tuple[Kind, int]] = set()  # vectors, another unit of which does not fit
        while self.room(left) > NEAR:
            for _, kind, layer, wider in sorted(self._wider(left), key=lambda each: each[:3]):
                if (kind, layer) in full:
                    continue
                if self.room(wider) >= 0.0:
                    left = wider
                    break
                full.add((kind, layer))
            else:
                break
        return left

    def exchanged(self, left: _Left) -> _Left:
        """Where more than `FAR` is left, but less than any unit takes that is gone: with one of these back,
        and as many of the highest ranked others gone as that takes."""
        if self.room(left) <= FAR:
            return left
        for _, kind, layer, wider in sorted(self._wider(left), key=lambda each: each[:3]):
            other = self.filled(self._trimmed(wider, (kind, layer)))
            if 0.0 <= self.room(other) <= FAR:
                return other
        return left

    def _trimmed(self, left: _Left, kept: tuple[Kind, int]) -> _Left:
        """Without the highest ranked units that are in no block alone, until bounds hold; none of `kept`."""
        while self.room(left) < 0.0:
            options = [
                (self._alpha(each, leader, width - 1), each, leader, width - self._size(each))
                for each in WIDTHS
                for leader, width in left.width(each).items()
                if (each, leader) != kept
                and width > self._size(each)
                and self.ranking.of(each, leader) is not None
                and any(self._leader(index) == leader for index in left.layers)
            ]
            if not options:
                return left
            _, each, leader, width = max(options)
            left = left.with_width(each, leader, width)
        return left

    def room(self, left: _Left) -> float:
        return self._room(self.shape(left))

    def shape(self, left: _Left) -> Shape:
        """The shape that has this left."""
        layers = []
        for index, held in enumerate(self.full.layers):
            if index not in left.layers:
                layers.append(LayerShape((), (), present=False))
                continue
            leader = self._leader(index)
            heads, channels = (
                tuple(sorted(self._order(kind, leader)[: left.width(kind)[leader]])) for kind in WIDTHS
            )
            layers.append(replace(held, heads=heads, channels=channels))
        gone = self._order("hidden", 0)[left.hidden :]
        hidden_gone = tuple(sorted({*self.full.hidden_gone, *gone}))
        return replace(self.full, layers=tuple(layers), hidden_gone=hidden_gone)

    def slices(self, left: _Left) -> Iterator[tuple[Element, ...]]:
        """The elements that go: first whole layers and blocks and most of the units, then slices of the rest,
        so that a little can be given back."""
        whole = [
            Element("layer", index)
            for index, layer in enumerate(self.full.layers)
            if layer.present and index not in left.layers
        ]
        units: list[tuple[float, Element]] = list(self._hidden_gone(left))
        for leader in self.leaders:
            present = [index for index in self.full.sharing(leader) if index in left.layers]
            for kind in WIDTHS:
                if not present or not self._held(kind, leader):
                    continue
                if left.width(kind)[leader]:
                    units += self._units_gone(kind, leader, present[0], left)
                else:
                    whole.append(Element(BLOCK_OF[kind], present[0]))
        ordered = [unit for _, unit in sorted(units, key=lambda unit: -unit[0])]
        bulk = len(ordered) - round(SLICED * len(ordered))
        size = max(1, -(-(len(ordered) - bulk) // SLICES))
        if whole or bulk:
            yield (*whole, *_by_place(ordered[:bulk]))
        for start in range(bulk, len(ordered), size):
            yield tuple(_by_place(ordered[start : start + size]))

    def _wider(self, left: _Left) -> Iterator[tuple[float, Kind, int, _Left]]:
        """One more unit of each vector, with the log alpha of what comes back."""
        used = {self._leader(index) for index in left.layers}
        for leader in sorted(used):
            for kind in WIDTHS:
                count, kept = len(self._held(kind, leader)), left.width(kind)[leader]
                if kept < count:
                    masked = self.ranking.of(kind, leader) is not None
                    more = min(count, kept + self._size(kind)) if masked else count
                    alpha = self._alpha(kind, leader, kept)
                    if not kept:  # the block comes back
                        alpha = max(alpha, self._alpha(BLOCK_OF[kind], leader))
                    yield alpha, kind, leader, left.with_width(kind, leader, more)
        if left.hidden < len(self.dimensions):
            hidden = min(len(self.dimensions), left.hidden + self.grain.hidden)
            yield self._alpha("hidden", 0, left.hidden), "hidden", 0, replace(left, hidden=hidden)
        for index, layer in enumerate(self.full.layers):
            if layer.present and index not in left.layers:
                wider = replace(left, layers=left.layers | {index})
                leader = self._leader(index)
                if leader not in used:
                    for each in WIDTHS:
                        wider = wider.with_width(each, leader, self._least(each, leader))
                yield self._alpha("layers", index), "layers", index, wider

    def _units_gone(
        self, kind: Width, leader: int, index: int, left: _Left
    ) -> Iterator[tuple[float, Element]]:
        order, kept, size = self._order(kind, leader), left.width(kind)[leader], self._size(kind)
        for start in range(kept, len(order), size):
            alpha, units = self._alpha(kind, leader, start), tuple(sorted(order[start : start + size]))
            if kind == "heads":
                yield alpha, Element("head", index, units[0])
            else:
                yield alpha, Element("group", index, start, channels=units)

    def _hidden_gone(self, left: _Left) -> Iterator[tuple[float, Element]]:
        order, size = self._order("hidden", 0), self.grain.hidden
        for start in range(left.hidden, len(order), size):
            units = tuple(sorted(order[start : start + size]))
            yield self._alpha("hidden", 0, start), Element("hidden_group", ALL_LAYERS, start, channels=units)

    def _held(self, kind: Width, leader: int) -> tuple[int, ...]:
        layer = self.full.layers[leader]
        return layer.heads if kind == "heads" else layer.channels

    def _leader(self, index: int) -> int:
        return self.full.sharing(index)[0]

    def _order(self, kind: Kind, layer: int) -> list[int]:
        """Dense indices of a vector's units, the lowest ranked first."""
        held = self.dimensions if kind == "hidden" else self._held(kind, layer)  # type: ignore[arg-type]
        alphas = self.ranking.of(kind, layer)
        return list(held) if alphas is None else [held[at] for at in np.argsort(alphas, kind="stable")]

    def _alpha(self, kind: Kind, layer: int, place: int = 0) -> float:
        """log alpha of the unit at that place of the vector's order; without a mask it never goes."""
        alphas = self.ranking.of(kind, layer)
        return -np.inf if alphas is None else float(np.sort(alphas)[place])

    def _below(self, kind: Kind, layer: int, threshold: float, count: int) -> int:
        """How many of the vector's `count` units have a log alpha below the threshold."""
        alphas = self.ranking.of(kind, layer)
        return count if alphas is None else int((alphas < threshold).sum())

    def _size(self, kind: Kind) -> int:
        return {"channels": self.grain.channels, "hidden": self.grain.hidden}.get(kind, 1)

    def _rounded(self, kind: Kind, kept: int, count: int) -> int:
        size = self._size(kind)
        return count if kept == count else min(count, (2 * kept + size) // (2 * size) * size)

    def _least(self, kind: Width, leader: int) -> int:
        """Units of a block that have to stay."""
        count = len(self._held(kind, leader))
        if self.ranking.of(kind, leader) is None and not self.grain.may(BLOCK_OF[kind]):
            return count
        return 0 if self.grain.may(BLOCK_OF[kind]) else min(self._size(kind), count)


def _by_place(elements: Sequence[Element]) -> list[Element]:
    """So that elements of one layer and kind follow each other."""
    return sorted(elements, key=lambda element: (element.layer, element.kind, element.number))
