"""Which sparse attention a run weighs and times: what its search may decide on."""

from __future__ import annotations

from worker.engine.approximations.sparse_heads import SparseKind
from worker.engine.run import Run
from worker.engine.significance.sparse_elements import SparseElement, sparse_kinds, sparse_layers


def tried_kinds(run: Run) -> list[SparseKind]:
    """Only the accuracy-driven search tries any; the others give up what saves time or bytes."""
    if run.spec.focus != "accuracy":
        return []
    return sparse_kinds(run.spec.approximations, longest_sequence(run))


def tried_elements(run: Run) -> list[SparseElement]:
    """Layers, then heads, of each kind."""
    shape = run.origin.anatomy.full_shape()
    layers = [element for kind in tried_kinds(run) for element in sparse_layers(shape, kind)]
    return [*layers, *(head for layer in layers for head in layer.by_head(shape))]


def longest_sequence(run: Run) -> int:
    """Tokens of the longest sequence of the selection split."""
    return int(run.selection.sequence_lengths.max())
