"""Remove rows of the word embedding that the task does not need; `worker.engine.vocabulary` says which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from models.spec import PruneVocabulary
from models.spec.ranges import from_ranges
from worker.engine.approximations.base import Named, Structural

if TYPE_CHECKING:
    from worker.engine.anatomy.shape import Shape


class VocabularyPruning(Structural[PruneVocabulary]):
    """Whatever feeds the model must use the rewritten tokenizer: a masked model takes its ids, too."""

    name = "prune_vocabulary"
    step = PruneVocabulary
    changes_size = True
    changes_speed = False

    def named(self, step: PruneVocabulary) -> Iterable[Named]:
        return [("rows", "row", from_ranges(step.rows))]

    def narrowed(self, shape: Shape, step: PruneVocabulary) -> Shape:
        kept = from_ranges(step.rows)
        if shape.rows is not None:
            kept = tuple(sorted(set(kept) & set(shape.rows)))
        return replace(shape, rows=kept)
