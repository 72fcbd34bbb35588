"""Remove dimensions of the residual stream, everywhere at once (CoFi's hidden mask, Xia et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from models.spec import PruneHidden
from models.spec.ranges import from_ranges
from worker.engine.approximations.base import Named, Structural

if TYPE_CHECKING:
    from worker.engine.anatomy.shape import Shape


class HiddenPruning(Structural[PruneHidden]):
    """`worker.engine.anatomy.hidden` says which modules read and write the stream."""

    name = "prune_hidden"
    step = PruneHidden
    changes_size = True
    changes_speed = True

    def named(self, step: PruneHidden) -> Iterable[Named]:
        return [("dimensions", "dimension", from_ranges(step.dimensions))]

    def narrowed(self, shape: Shape, step: PruneHidden) -> Shape:
        gone = {*shape.hidden_gone, *from_ranges(step.dimensions)}
        return replace(shape, hidden_gone=tuple(sorted(gone)))
