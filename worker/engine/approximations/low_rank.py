"""Matrices as products of two thin ones: of the word embedding, and of a layer's FFN."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from models.spec import LowRankEmbeddings, LowRankFfn
from worker.engine.approximations.base import Named, Structural

if TYPE_CHECKING:
    from worker.engine.anatomy.shape import Shape


class EmbeddingFactorization(Structural[LowRankEmbeddings]):
    """The table becomes (rows, rank) times (rank, width), as ALBERT has it (Lan et al. 2020, section 3.1)."""

    name = "low_rank_embeddings"
    step = LowRankEmbeddings
    changes_size = True
    changes_speed = False

    def named(self, step: LowRankEmbeddings) -> Iterable[Named]:
        return [("rank", "embedding rank", (step.rank,))]

    def narrowed(self, shape: Shape, step: LowRankEmbeddings) -> Shape:
        return replace(shape, embedding_rank=min(step.rank, shape.embedding_rank or step.rank))


class FfnFactorization(Structural[LowRankFfn]):
    """Both FFN matrices of a layer."""

    name = "low_rank_ffn"
    step = LowRankFfn
    changes_size = True
    changes_speed = True

    def named(self, step: LowRankFfn) -> Iterable[Named]:
        return [("layer", "layer", (step.layer,)), ("rank", "rank", (step.rank,))]

    def narrowed(self, shape: Shape, step: LowRankFfn) -> Shape:
        layer = shape.layers[step.layer]
        rank = min(step.rank, layer.ffn_rank or step.rank)
        return shape.with_layer(step.layer, replace(layer, ffn_rank=rank))
