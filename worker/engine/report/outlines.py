"""The architecture before and after: what is left of each layer, and how its numbers are stored."""

from __future__ import annotations

from models.spec.ranges import as_ranges
from worker.engine.anatomy import Anatomy, Shape
from worker.engine.approximations.sparse_heads import to_json
from worker.engine.report.schema import Architecture, LayerOutline, Outline, Precision, SparseHeads


def architecture(
    anatomy: Anatomy, after: Shape, stored: tuple[Precision, Precision], hidden: int | None = None
) -> Architecture:
    """Of the dense model's `anatomy` and the delivered shape; `stored`: how each file keeps its numbers.

    `hidden`: width of the delivered model, where it is not the dense one's.
    """
    full = anatomy.full_shape()
    rows = int(anatomy.model.get_input_embeddings().num_embeddings)
    width = anatomy.hidden_size
    return Architecture(
        model_type=str(anatomy.model.config.model_type),
        before=_outline(full, full, rows, width, stored[0]),
        after=_outline(full, after, rows, hidden or width, stored[1]),
    )


def _outline(full: Shape, left: Shape, rows: int, width: int, stored: Precision) -> Outline:
    return Outline(
        layers=tuple(
            LayerOutline(
                layer=number,
                present=layer.present,
                heads=as_ranges(layer.heads),
                heads_kept=len(layer.heads),
                heads_of=len(whole.heads),
                channels=as_ranges(layer.channels),
                channels_kept=len(layer.channels),
                channels_of=len(whole.channels),
                ffn_rank=layer.ffn_rank,
                sparse=tuple(SparseHeads(**each) for each in to_json(layer.sparse)),
            )
            for number, (whole, layer) in enumerate(zip(full.layers, left.normalised().layers, strict=True))
        ),
        rows=rows if left.rows is None else len(left.rows),
        hidden_size=width,
        embedding_rank=left.embedding_rank,
        precision=stored,
    )
